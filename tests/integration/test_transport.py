"""Our kombu transport against a real Valkey, with kombu's own on the other side of the same queues."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Queue
from kombu.utils.json import dumps, loads

from conftest import eventually
from shoal import wire
from shoal.jobs import JobMessage
from shoal.publisher import open_publisher
from shoal_worker import transport

QUEUE = "letters"
VISIBILITY_SECONDS = 2


@pytest.fixture
def broker(valkey: str) -> str:
    transport.register()
    return "shoal" + valkey.removeprefix("redis")


@contextmanager
def consuming(url: str, prefetch: int = 0, *, acking: bool = True, **options: Any) -> Iterator["Reader"]:
    settings = {"visibility_timeout": VISIBILITY_SECONDS, **options}
    with Connection(url, transport_options=settings) as connection:
        reader = Reader(connection, acking=acking)
        channel = connection.channel()
        queues = [Queue(QUEUE, routing_key=QUEUE)]
        with Consumer(channel, queues, callbacks=[reader.take], prefetch_count=prefetch or None):
            reader.channel = channel
            yield reader


class Reader:
    """A consumer that keeps what it was given."""

    def __init__(self, connection: Any, *, acking: bool) -> None:
        self.connection = connection
        self.acking = acking
        self.channel: Any = None
        self.bodies: list[Any] = []
        self.messages: list[Any] = []

    def take(self, body: Any, message: Any) -> None:
        self.bodies.append(body)
        self.messages.append(message)
        if self.acking:
            message.ack()

    def turn(self) -> "Reader":
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.05)
        return self

    def turn_often(self) -> None:
        for _ in range(100):
            self.turn()

    def has(self, count: int) -> "Reader":
        eventually(lambda: len(self.turn().bodies) >= count, 15, f"{count} messages")
        return self

    def settled(self, client: "redis.Redis") -> bool:
        self.turn()
        return client.hlen("unacked") == 0 and client.zcard("unacked_index") == 0


def send(url: str, *bodies: Any) -> None:
    with Connection(url) as connection, connection.Producer() as producer:
        for body in bodies:
            producer.publish(body, routing_key=QUEUE, declare=[Queue(QUEUE, routing_key=QUEUE)])


def taken_raw(client: "redis.Redis") -> bytes:
    raw = client.rpop(QUEUE)
    assert isinstance(raw, bytes)
    return raw


def test_messages_of_a_stock_producer_arrive_in_order_and_leave_nothing(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    send(valkey, *range(250))
    with consuming(broker) as reader:
        assert reader.has(250).bodies == list(range(250))
        eventually(lambda: reader.settled(client), what="all acknowledged")


def test_a_stock_consumer_reads_what_ours_publishes(valkey: str, broker: str) -> None:
    send(broker, "one", "two")
    with consuming(valkey) as reader:
        assert reader.has(2).bodies == ["one", "two"]


def test_a_task_sent_by_a_stock_celery_client_arrives(valkey: str, broker: str) -> None:
    with Celery(broker=valkey) as app:
        app.send_task("shoal.none", args=["text"], queue=QUEUE)
    with consuming(broker) as reader:
        assert reader.has(1).bodies[0][0] == ["text"]
        assert reader.messages[0].headers["task"] == "shoal.none"


def test_an_unacknowledged_message_is_stored_as_kombu_stores_it(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    send(valkey, {"naïve": "ünï"})
    raw = client.lindex(QUEUE, 0)
    with consuming(broker, acking=False) as reader:
        tag = reader.has(1).messages[0].delivery_tag
        stored = client.hget("unacked", tag)
        assert isinstance(stored, bytes)
        assert isinstance(raw, bytes)
        assert stored.startswith(b"[" + raw + b", ")
        assert loads(stored.decode())[0] == loads(raw.decode())
        assert client.zscore("unacked_index", tag) == pytest.approx(time.time(), abs=30)
        reader.channel.release()


@pytest.mark.parametrize("item", [b"not json", b"17", b"[]", b"{}", b'{"properties": {"delivery_tag": 5}}', b""])
def test_an_item_that_is_no_message_is_set_aside_and_the_next_is_served(
    valkey: str, broker: str, client: "redis.Redis", item: bytes
) -> None:
    client.lpush(QUEUE, item)
    send(valkey, "next")
    with consuming(broker) as reader:
        assert reader.has(1).bodies == ["next"]
    assert client.lrange(wire.UNDECODABLE, 0, -1) == [item]


def test_no_more_are_taken_than_the_consumer_has_room_for(valkey: str, broker: str, client: "redis.Redis") -> None:
    send(valkey, *range(10))
    with consuming(broker, prefetch=3, acking=False) as reader:
        reader.has(3)
        for _ in range(5):
            reader.turn()
        assert len(reader.bodies) == 3
        assert client.llen(QUEUE) == 7
        reader.messages[0].ack()
        assert reader.has(4).bodies == [0, 1, 2, 3]
        reader.channel.release()
    assert client.llen(QUEUE) == 9


def test_a_thousand_acknowledgements_at_once_all_arrive(valkey: str, broker: str, client: "redis.Redis") -> None:
    send(valkey, *range(1_000))
    with consuming(broker, acking=False, visibility_timeout=60) as reader:
        reader.has(1_000)
        assert client.hlen("unacked") == 1_000
        for message in reader.messages:
            message.ack()
        reader.channel.flush()
        assert client.hlen("unacked") == client.zcard("unacked_index") == 0


def test_acknowledgements_survive_the_connection_they_were_made_on(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    send(valkey, *range(20))
    with consuming(broker, acking=False, visibility_timeout=60) as reader:
        reader.has(20)
        client.client_kill_filter(_type="normal", skipme=True)
        for message in reader.messages:
            message.ack()
        with pytest.raises(reader.connection.connection_errors):
            reader.turn_often()
        reader.connection.collect()
    with consuming(broker) as later:
        eventually(lambda: later.settled(client), what="the acknowledgements")
        assert later.bodies == []


def test_a_message_put_back_comes_again_next(valkey: str, broker: str) -> None:
    send(valkey, *range(3))
    with consuming(broker, prefetch=1, acking=False) as reader:
        reader.has(1).messages[0].requeue()
        reader.has(2).messages[1].ack()
        assert reader.has(3).bodies == [0, 0, 1]
        reader.channel.release()


def test_a_parked_message_comes_when_it_is_due_and_not_before(valkey: str, broker: str, client: "redis.Redis") -> None:
    send(valkey, "later")
    due_at = time.time() + 1.5
    client.zadd(wire.parked(QUEUE), {taken_raw(client): due_at})
    with consuming(broker) as reader:
        reader.has(1)
        assert time.time() >= due_at
    assert client.zcard(wire.parked(QUEUE)) == 0


def test_the_message_of_a_dead_stock_worker_is_restored(valkey: str, broker: str, client: "redis.Redis") -> None:
    send(valkey, "orphan")
    payload = loads(taken_raw(client).decode())
    client.hset("unacked", "tag", dumps([payload, "", QUEUE]))
    client.zadd("unacked_index", {"tag": 1.0})
    with consuming(broker) as reader:
        reader.channel.restore_expired()
        assert reader.has(1).bodies == ["orphan"]
        eventually(lambda: reader.settled(client), what="all acknowledged")


def test_a_message_that_is_renewed_is_not_delivered_twice(valkey: str, broker: str) -> None:
    send(valkey, "long")
    ends_at = time.monotonic() + 2 * VISIBILITY_SECONDS
    with consuming(broker, acking=False) as working, consuming(broker) as idle:
        working.has(1)
        while time.monotonic() < ends_at:
            working.channel.renew()
            idle.channel.restore_expired()
            idle.turn()
        assert idle.bodies == []
        working.channel.release()
        assert idle.has(1).bodies == ["long"]


def test_a_late_acknowledgement_does_not_touch_a_newer_delivery(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    """A worker that was frozen for longer than the visibility timeout wakes up after another took over."""
    send(valkey, "contested")
    with consuming(broker, acking=False, visibility_timeout=60) as frozen:
        message = frozen.has(1).messages[0]
        tag = message.delivery_tag
        client.zadd("unacked_index", {tag: time.time() - 1})  # restored and delivered again meanwhile
        message.ack()
        frozen.channel.flush()
        assert client.hexists("unacked", tag)
        frozen.channel.renew()
        assert tag not in frozen.channel.ledger.in_flight


def test_two_messages_with_one_tag_are_both_served(valkey: str, broker: str, client: "redis.Redis") -> None:
    send(valkey, "first")
    first = loads(taken_raw(client).decode())
    second = {**first, "body": "c2Vjb25k"}
    client.lpush(QUEUE, dumps(first), dumps(second))
    with consuming(broker, visibility_timeout=60) as reader:
        assert reader.has(2).bodies == ["first", "second"]
        eventually(lambda: reader.settled(client), what="all acknowledged")


def test_scripts_that_the_server_forgot_are_loaded_again(valkey: str, broker: str, client: "redis.Redis") -> None:
    with consuming(broker) as reader:
        reader.turn()
        client.script_flush()
        send(valkey, "after")
        assert reader.has(1).bodies == ["after"]


def test_a_message_that_needs_no_acknowledgement_leaves_nothing_in_flight(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    """Replies to remote control are such messages: Celery asks its neighbours when it starts."""
    send(valkey, "reply")
    with Connection(broker) as connection:
        reader = Reader(connection, acking=False)
        queues = [Queue(QUEUE, routing_key=QUEUE)]
        with Consumer(connection.channel(), queues, callbacks=[reader.take], no_ack=True):
            reader.has(1)
            eventually(lambda: reader.settled(client), what="nothing in flight")


def test_a_body_that_is_not_in_its_stated_encoding_is_set_aside_and_the_next_is_served(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    send(valkey, "spoilt")
    payload = {**loads(taken_raw(client).decode()), "body": "@@@a"}
    client.lpush(QUEUE, dumps(payload))
    send(valkey, "next")
    with consuming(broker) as reader:
        assert reader.has(1).bodies == ["next"]
        eventually(lambda: reader.settled(client), what="all acknowledged")
    assert client.llen(wire.UNDECODABLE) == 1


def test_what_a_failing_consumer_was_not_given_comes_again(valkey: str, broker: str, client: "redis.Redis") -> None:
    send(valkey, *range(3))
    with consuming(broker, visibility_timeout=60) as reader:
        take = reader.channel.connection._callbacks[QUEUE]

        def fail_once(raw: Any) -> None:
            reader.channel.connection._callbacks[QUEUE] = take
            raise RuntimeError

        reader.channel.connection._callbacks[QUEUE] = fail_once
        with pytest.raises(RuntimeError):
            reader.turn_often()
        assert reader.has(3).bodies == [0, 1, 2]


def test_a_message_that_nothing_refers_to_after_a_reconnect_is_left_to_others(valkey: str, broker: str) -> None:
    send(valkey, "forgotten")
    with consuming(broker, acking=False) as reader:
        ledger = reader.has(1).channel.ledger
        tag = reader.messages[0].delivery_tag
        assert tag in dict(ledger.renewable())
        reader.connection.collect()
        reader.messages.clear()
        gc.collect()
        assert tag not in dict(ledger.renewable())


def test_a_full_server_does_not_end_a_waiting_consumer(valkey: str, broker: str, client: "redis.Redis") -> None:
    with consuming(broker) as reader:
        client.config_set("maxmemory", "1mb")
        try:
            reader.turn_often()
        finally:
            client.config_set("maxmemory", "0")
        send(valkey, "after")
        assert reader.has(1).bodies == ["after"]


# --- lanes and tenants: queues that our own scripts fill -------------------------------------------------------------


@contextmanager
def reading_lanes(url: str, rooms: dict[str, int], *, acking: bool = False) -> Iterator[Reader]:
    with Connection(url, transport_options={"visibility_timeout": 60}) as connection:
        reader = Reader(connection, acking=acking)
        channel = connection.channel()
        channel.room_of = rooms.get
        queues = [Queue(name, routing_key=name) for name in (wire.BULK_QUEUE, wire.QUEUE)]
        with Consumer(channel, queues, callbacks=[reader.take], accept=["json"]):
            reader.channel = channel
            yield reader


def letters(tenant: str, lane: str, count: int, size: int = 10) -> list[str]:
    return [
        wire.message(
            JobMessage.model_validate(
                {
                    "id": f"{tenant}{number}",
                    "key": "k",
                    "fingerprint": "f",
                    "kind": "classify",
                    "args": {"text": "x" * size},
                    "tenant": tenant,
                    "lane": lane,
                    "enqueued_at": 1.0,
                    "expires_at": 2.0,
                }
            )
        )
        for number in range(count)
    ]


def put(valkey: str, *messages: str) -> None:
    async def publish() -> None:
        publisher = open_publisher(valkey)
        await publisher.publish(messages)
        await publisher.aclose()

    asyncio.run(publish())


def names(reader: Reader) -> list[str]:
    return [message.headers["id"] for message in reader.messages]


def test_tenants_are_served_in_turns_by_the_bytes_of_their_messages(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    put(valkey, *letters("big", "bulk", 6, 5_000), *letters("", "bulk", 3), *letters("small", "bulk", 12))
    with reading_lanes(broker, {wire.BULK_QUEUE: 1}, acking=True) as reader:
        order = names(reader.has(21))
        first = order[:12]
        assert sum(name.startswith("big") for name in first) <= 2
        assert {"0", "1", "2"} <= set(first)
        assert [name for name in order if name.startswith("big")] == [f"big{number}" for number in range(6)]
        eventually(lambda: reader.settled(client), what="all acknowledged")
    assert client.keys("shoal:t*") == client.keys("shoal*") == []


def test_a_sole_tenants_messages_are_taken_many_at_a_time_and_an_idle_worker_is_woken_for_them(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    with reading_lanes(broker, {}) as reader:
        reader.turn_often()
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        put(valkey, *letters("acme", "interactive", 50))
        assert names(reader.has(50)) == [f"acme{number}" for number in range(50)]
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 10
        reader.channel.release()
    assert client.llen(wire.waiting_list(wire.QUEUE, "acme")) == 50


def test_the_interactive_lane_comes_first_and_no_more_is_taken_than_there_is_use_for(
    valkey: str, broker: str, client: "redis.Redis"
) -> None:
    put(valkey, *letters("", "bulk", 9), *letters("", "interactive", 2))
    rooms = {wire.BULK_QUEUE: 0, wire.QUEUE: 5}
    with reading_lanes(broker, rooms) as reader:
        assert names(reader.has(2)) == ["0", "1"]
        reader.turn_often()
        assert len(reader.messages) == 2
        rooms[wire.BULK_QUEUE] = 4
        reader.has(6)
        rooms[wire.BULK_QUEUE] = 0
        put(valkey, *letters("late", "interactive", 1))
        eventually(lambda: "late0" in names(reader.turn()), 5, "the late one")
        reader.channel.release()


def test_what_one_worker_has_no_use_for_another_one_is_woken_for(valkey: str, broker: str) -> None:
    with reading_lanes(broker, {wire.BULK_QUEUE: 0}) as full, reading_lanes(broker, {}) as idle:
        full.turn_often()
        idle.turn_often()
        put(valkey, *letters("acme", "bulk", 3))
        full.turn_often()
        assert names(idle.has(3)) == ["acme0", "acme1", "acme2"]
        idle.channel.release()


def test_a_tenants_message_goes_back_to_its_own_list(valkey: str, broker: str, client: "redis.Redis") -> None:
    put(valkey, *letters("acme", "bulk", 1))
    with reading_lanes(broker, {}) as dead:
        dead.has(1)
        client.zadd("unacked_index", {dead.messages[0].delivery_tag: 1.0}, xx=True)
        with reading_lanes(broker, {wire.BULK_QUEUE: 0, wire.QUEUE: 0}) as living:
            living.channel.restore_expired()
            assert client.llen(wire.waiting_list(wire.BULK_QUEUE, "acme")) == 1
        with reading_lanes(broker, {}) as living:
            assert names(living.has(1)) == ["acme0"]
            living.messages[0].requeue()
            living.channel.flush()
            assert client.llen(wire.waiting_list(wire.BULK_QUEUE, "acme")) == 1


def test_a_parked_message_comes_in_the_lane_and_the_line_that_it_names(valkey: str, broker: str) -> None:
    [message] = letters("acme", "bulk", 1)
    with redis.Redis.from_url(valkey) as client:
        client.zadd(wire.OUTBOX, {message: time.time() - 1})
    with reading_lanes(broker, {wire.QUEUE: 5, wire.BULK_QUEUE: 0}) as reader:
        reader.turn_often()
        assert reader.messages == []
    with reading_lanes(broker, {}) as reader:
        reader.has(1)
        assert reader.messages[0].delivery_info["routing_key"] == wire.BULK_QUEUE
        reader.channel.release()
