"""A task's message as Redis keeps it, and the same one for AMQP."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from shoal import Classify, ProducerSettings, SettingsError, wire
from shoal.messages import message_of
from shoal.publisher import amqp_message
from shoal.signing import Signer
from shoal_worker.broker import configuration


class Channel:
    def prepare_message(self, body: bytes, **options: Any) -> tuple[bytes, dict[str, Any]]:
        return body, options


def test_both_forms_of_a_message_are_the_same_task() -> None:
    job = message_of(Classify(text="charged twice", labels=("a", "b")), {}, ProducerSettings(), 1.0)
    text = wire.message(job, Signer.of(SecretStr("key")))
    body, options = amqp_message(Channel(), text)
    parts = json.loads(text)
    assert body.decode() == parts["body"]
    assert options["headers"] == parts["headers"]
    assert options["headers"][wire.SIGNATURE_HEADER]
    assert (options["content_type"], options["content_encoding"]) == ("application/json", "utf-8")
    assert options["properties"] == {"correlation_id": job.id, "delivery_mode": 2}


@pytest.mark.parametrize("text", ["no message", b"\xff", "17", '{"body": 1}', '{"body": "x"}'])
def test_what_is_no_message_goes_out_as_it_is(text: str | bytes) -> None:
    body, options = amqp_message(Channel(), text)
    assert body == (text if isinstance(text, bytes) else text.encode())
    assert options == {"properties": {"delivery_mode": 2}}


def test_queue_and_results_are_in_one_redis_unless_told_otherwise() -> None:
    one = ProducerSettings(redis_url=SecretStr("redis://one/0"))
    assert (one.queue, one.results, one.has_outbox) == (one.redis_url, one.redis_url, False)
    two = ProducerSettings(queue_url=SecretStr("amqp://two//"), result_url=SecretStr("redis://three/0"))
    assert (two.queue, two.results, two.has_outbox) == (two.queue_url, two.result_url, True)


def test_a_wrong_queue_url_is_named_without_its_password() -> None:
    with pytest.raises(SettingsError, match="SHOAL_QUEUE_URL: must be the URL of a Redis, or of a RabbitMQ") as said:
        ProducerSettings.load(queue_url="kafka://:hidden@one")
    assert "hidden" not in str(said.value)


def test_a_worker_of_rabbitmq_gives_signs_of_life_and_checks_certificates() -> None:
    plain = configuration("amqp://one//", 60)
    assert (plain["broker_heartbeat"], plain["broker_use_ssl"]) == (60, None)
    assert plain["task_queues"][0].queue_arguments["x-queue-type"] == "quorum"
    # For kombu: take the host of the URL, and with a host certificates are checked.
    assert configuration("amqps://one//", 60)["broker_use_ssl"] == {"server_hostname": None}
