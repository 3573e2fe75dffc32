"""Messages that nobody known has signed, and messages that would run code when they are read."""

import json
import pickle
from base64 import b64encode

import pytest
import redis
from celery import Celery
from pydantic import SecretStr

from conftest import Sandbox, Workers, eventually
from shoal import Classify, ProducerSettings, Shoal

JOB = Classify(text="charged twice [[fault:server_500:1*1]]", labels=("billing", "bug"))


def dead(client: "redis.Redis") -> list[dict[str, str]]:
    return [json.loads(letter) for letter in client.hvals("shoal:dead")]


def test_with_signing_on_only_signed_messages_run(
    workers: Workers, sandbox: Sandbox, valkey: str, client: "redis.Redis"
) -> None:
    workers.start(signing_keys="new,old")
    url = SecretStr(valkey)
    for number, keys in enumerate(("stolen", None)):
        with Shoal(ProducerSettings(redis_url=url, signing_keys=SecretStr(keys) if keys else None)) as forger:
            forged = forger.enqueue(JOB)
            eventually(lambda: len(dead(client)) == number + 1, what="the dead letter")  # noqa: B023 awaited here
            assert forged.status() == "available"
            client.delete(f"shoal:job:{forged.id}")
    assert {letter["cause"] for letter in dead(client)} == {"forged"}
    assert sandbox.bill()["requests"] == 0
    with Shoal(ProducerSettings(redis_url=url, signing_keys=SecretStr("new"))) as known:
        sandbox.scenario(latency_seconds=1.0)
        job = known.enqueue(Classify(text="charged twice", labels=("billing", "bug")))
        # An unknown task under the id of a real job must not end that job.
        with Celery(broker=valkey, set_as_current=False) as app:
            app.send_task("shoal.dance", task_id=job.id, queue="shoal", ignore_result=True)
        eventually(lambda: len(dead(client)) == 3, what="the dead letter")
        assert job.result(30).label == "billing"
        sandbox.scenario(latency_seconds=0.02)
    with Shoal(ProducerSettings(redis_url=url, signing_keys=SecretStr("old"))) as known:
        outcome = known.enqueue(JOB).outcome(60)
    assert (outcome.result.label, outcome.attempts) == ("billing", 2)


@pytest.mark.parametrize("encoding", ["base64", "utf-8"])
def test_pickle_is_never_read(workers: Workers, shoal: Shoal, client: "redis.Redis", encoding: str) -> None:
    workers.start()
    shoal.enqueue(JOB).result(60)
    body = b64encode(pickle.dumps(([], {}, {}))).decode()
    properties = {"delivery_info": {"exchange": "", "routing_key": "shoal"}, "delivery_tag": "t", "priority": 0}
    message = {
        "body": body,
        "content-encoding": "binary",
        "content-type": "application/x-python-serialize",
        "headers": {"task": "shoal.classify", "id": "pickled"},
        "properties": {**properties, "body_encoding": encoding},
    }
    client.lpush("shoal", json.dumps(message))
    eventually(lambda: client.hexists("shoal:dead", "pickled"), what="the dead letter")
    assert dead(client)[0]["cause"] == "invalid_message"
    assert shoal.enqueue(JOB, fresh=True).result(60).label == "billing"
