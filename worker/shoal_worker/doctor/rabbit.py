"""A RabbitMQ that holds the queue. Its settings cannot be asked for over AMQP: its defaults stand for them."""

from collections.abc import Iterator
from dataclasses import dataclass

from amqp.exceptions import AMQPError, PreconditionFailed
from kombu import Connection

from shoal.publisher import CONNECT_SECONDS, amqp_queue, ssl_options
from shoal_worker.doctor.findings import Finding, fault, fine, warning

#: RabbitMQ's own default, from 3.8.17 on: a message held longer closes its consumer's channel.
CONSUMER_TIMEOUT_SECONDS = 1_800.0


@dataclass(frozen=True, slots=True)
class Facts:
    version: str = ""
    #: Whether a queue of our name is there and is none of ours.
    is_other_kind: bool = False
    away: str = ""


def look(url: str) -> Facts:
    """Does not raise for a server that is away or refuses. Blocks. Declares the queue, as every worker does."""
    try:
        with Connection(url, connect_timeout=CONNECT_SECONDS, ssl=ssl_options(url)) as connection:
            connection.connect()
            told = connection.connection.server_properties.get("version", "unknown")
            try:
                amqp_queue()(connection.channel()).declare()
            except PreconditionFailed:
                return Facts(told, is_other_kind=True)
    except (AMQPError, OSError) as error:
        return Facts(away=type(error).__name__)
    return Facts(str(told))


def findings(facts: Facts, job_time_limit_seconds: float) -> Iterator[Finding]:
    if facts.away:
        why = "jobs are accepted into the outbox and wait there"
        fix = "start it, or put its right address into SHOAL_QUEUE_URL"
        yield fault("rabbitmq-away", f"RabbitMQ cannot be asked: {facts.away}", why, fix)
        return
    yield fine("rabbitmq-version", f"RabbitMQ is version {facts.version}")
    if facts.is_other_kind:
        why = "workers and producers cannot declare it, so nothing is queued"
        fix = "let it run empty, then rabbitmqctl delete_queue shoal"
        yield fault("rabbitmq-queue", "its queue `shoal` is of another kind than ours", why, fix)
    if job_time_limit_seconds > CONSUMER_TIMEOUT_SECONDS / 2:
        why = "it takes jobs back that run, and they are run again; how it is set cannot be seen from here"
        fix = f"raise consumer_timeout well above {1000 * job_time_limit_seconds:g} (milliseconds), or lower the limit"
        what = f"SHOAL_JOB_TIME_LIMIT_SECONDS ({job_time_limit_seconds:g}) is near RabbitMQ's consumer_timeout "
        what += f"({CONSUMER_TIMEOUT_SECONDS:g} s unless it was set)"
        yield warning("rabbitmq-timeout", what, why, fix)
