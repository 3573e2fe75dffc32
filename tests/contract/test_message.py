"""The message that producers write is kombu's and Celery's own form."""

import json
import time

from celery import Celery
from kombu import Connection, Queue
from kombu.message import Message

from shoal import Classify, ProducerSettings, wire
from shoal.messages import message_of

JOB = message_of(Classify(text="a secret text", labels=("a", "b")), {}, ProducerSettings(), time.time())


def test_the_headers_are_those_of_celerys_task_protocol() -> None:
    app = Celery(set_as_current=False)
    theirs = app.amqp.as_task_v2(JOB.id, wire.task_name("classify"), [], {"job": {}}).headers
    assert set(json.loads(wire.message(JOB))["headers"]) == set(theirs) | {wire.TENANT_HEADER}


def test_a_stock_consumer_reads_the_message(valkey: str) -> None:
    with Connection(valkey) as connection:
        channel = connection.channel()
        channel.client.lpush(wire.QUEUE, wire.message(JOB))
        message: Message = Queue(wire.QUEUE, channel=channel).get()
        args, kwargs, _ = message.decode()
        message.ack()
    assert args == []
    assert kwargs["job"]["args"]["text"] == "a secret text"
    assert message.headers["id"] == JOB.id


def test_what_flower_shows_holds_no_text() -> None:
    headers = json.loads(wire.message(JOB))["headers"]
    assert "secret" not in headers["argsrepr"] + headers["kwargsrepr"]
    assert "classify" in headers["kwargsrepr"]
