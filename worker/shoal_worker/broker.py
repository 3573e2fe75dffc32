"""Celery's configuration for a queue, by its URL alone.

RabbitMQ is reached through kombu's stock transport. Its quorum queues hand each consumer so many messages at once as
it asked for when it began, and put back what a closed connection leaves. `visibility_timeout_seconds` is there how
long a worker may give no sign of life before its connection is closed.
"""

from typing import Any

from kombu import Queue

from shoal import wire
from shoal.publisher import amqp_queue, is_amqp, ssl_options
from shoal.redis_url import Sentinels, is_sentinel, tls_options, without_options
from shoal_worker import transport


def redis_queues() -> list[Queue]:
    return [Queue(name, routing_key=name) for name in (wire.QUEUE, wire.BULK_QUEUE)]


def configuration(queue_url: str, visibility_timeout_seconds: float) -> dict[str, Any]:
    """What a worker's app needs to consume from there. Redis goes through our own channel (`transport.py`)."""
    if is_amqp(queue_url):
        return {
            "broker_url": queue_url,
            "broker_use_ssl": ssl_options(queue_url),
            "broker_heartbeat": max(1, int(visibility_timeout_seconds)),
            "task_queues": [amqp_queue()],
        }
    transport.register()
    options = {
        "visibility_timeout": visibility_timeout_seconds,
        "unacked_restore_interval": visibility_timeout_seconds / 4,
    }
    if is_sentinel(queue_url):
        known = Sentinels.of(queue_url)
        return {
            "broker_url": known.kombu_url(transport.SENTINEL_SCHEME),
            "broker_transport_options": {**options, "master_name": known.master},
            "task_queues": redis_queues(),
        }
    _, _, rest = without_options(queue_url).partition("://")
    return {
        "broker_url": f"{transport.SCHEME}://{rest}",
        "broker_use_ssl": tls_options(queue_url),
        "broker_transport_options": options,
        "task_queues": redis_queues(),
    }
