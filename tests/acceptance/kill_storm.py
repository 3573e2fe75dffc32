"""Kill a consumer or a whole worker at random moments, again and again, and count what was lost.

`python tests/acceptance/kill_storm.py --what worker --kills 1000 --messages 20000` prints one line. Messages are
handed out through the storm, so that each kill finds some on their way. Children are forked from this process, which
has imported everything and opened none of their connections, so that a restart costs milliseconds. Each notes a
message as seen before it is acknowledged; whatever is neither seen nor in a key at the end is lost. `--channel stock`
runs the same on kombu's own channel.
"""

import base64
import json
import logging
import multiprocessing
import os
import random
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click
import redis
import redis.asyncio
from celery import Celery
from celery.platforms import SecurityWarning
from kombu import Connection, Consumer, Queue

from shoal import wire
from shoal_worker import services, transport
from shoal_worker.consumer import Consumer as WorkerConsumer
from shoal_worker.loop import await_
from shoal_worker.pool import TaskPool

QUEUE = "storm"
TASK = "storm.note"
SEEN = "storm:seen"
VISIBILITY_SECONDS = 2
#: Longer than a dead child's messages stay invisible: when nothing has changed for so long, nothing will.
QUIET_SECONDS = 4 * VISIBILITY_SECONDS + 2
OPTIONS = {
    "visibility_timeout": VISIBILITY_SECONDS,
    "unacked_restore_interval": 0.1,
    # kombu's own channel only: it looks each time, and waits no longer for a mutex whose holder was killed.
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": VISIBILITY_SECONDS,
}
#: Of so many children one is killed while it starts, the others after they have seen their first message.
ONE_KILLED_AT_START_IN = 5


@dataclass(frozen=True)
class Target:
    """What runs in a child, what gives it a message, and how long it lives: from its start, from its first message."""

    run: Callable[[], None]
    publish: Callable[[int], object]
    start_seconds: float
    work_seconds: float


# --- a consumer on the channel alone -----------------------------------------------------------------------------


def consumer_target(broker: str, url: str) -> Target:
    producer = Connection(url).Producer()
    queue = Queue(QUEUE, routing_key=QUEUE)
    return Target(
        run=lambda: consume(broker, url),
        publish=lambda number: producer.publish(number, routing_key=QUEUE, declare=[queue]),
        start_seconds=0.02,
        work_seconds=0.005,
    )


def consume(broker: str, url: str) -> None:
    """Take messages and acknowledge them until killed."""
    client = redis.Redis.from_url(url)

    def seen(body: object, message: Any) -> None:
        client.sadd(SEEN, str(body))
        message.ack()

    with Connection(broker, transport_options=OPTIONS) as connection:
        channel = connection.channel()
        with Consumer(channel, [Queue(QUEUE, routing_key=QUEUE)], callbacks=[seen], prefetch_count=50):
            while True:
                channel.qos.restore_visible(num=1000, interval=1)
                try:
                    connection.drain_events(timeout=0.2)
                except TimeoutError:
                    continue


# --- a whole Celery worker -----------------------------------------------------------------------------------------


def worker_target(broker: str, url: str) -> Target:
    app = worker_app(broker, url)
    producer = Celery(broker=url, set_as_current=False)
    return Target(
        run=lambda: work(app),
        publish=lambda number: producer.send_task(TASK, (number,), queue=QUEUE, ignore_result=True),
        start_seconds=0.1,
        work_seconds=0.05,
    )


def worker_app(broker: str, url: str) -> Celery:
    """Made before the forks; its connections are opened in the child that uses them."""
    app = Celery("storm", broker=broker)
    app.conf.update(
        worker_pool=TaskPool,
        worker_consumer=WorkerConsumer,
        worker_concurrency=50,
        worker_prefetch_multiplier=2,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        task_acks_late=True,
        task_default_queue=QUEUE,
        broker_connection_retry_on_startup=True,
        broker_transport_options=OPTIONS,
    )
    client: Any = redis.asyncio.Redis.from_url(url, single_connection_client=True)

    def note(number: int) -> None:
        await_(client.sadd(SEEN, number))

    app.task(note, name=TASK, ignore_result=True)
    app.finalize()
    return app


def work(app: Celery) -> None:
    """Be a worker, always the one of this name, until killed."""
    warnings.simplefilter("ignore", SecurityWarning)
    app.Worker(
        hostname="storm@localhost",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    ).start()


# --- the storm -------------------------------------------------------------------------------------------------------

TARGETS = {"consumer": consumer_target, "worker": worker_target}


@dataclass
class Storm:
    """`killed_holding` counts the children that had taken messages and not acknowledged them when they were killed."""

    client: "redis.Redis"
    target: Target
    rng: random.Random
    published: int = 0
    killed_holding: int = 0

    def publish_until(self, number: int) -> None:
        while self.published < number:
            self.target.publish(self.published)
            self.published += 1

    def kill_one(self) -> None:
        """Start a child and kill it, at its start or soon after its first message."""
        before, started_at = self.seen(), time.time()
        child = self.child()
        if self.rng.randrange(ONE_KILLED_AT_START_IN) == 0:
            time.sleep(self.rng.uniform(0, self.target.start_seconds))
        else:
            while self.seen() == before < self.published and child.is_alive():
                time.sleep(0.0005)
            # Most soon, while a handful of messages is on its way; some late, while acknowledgements are.
            time.sleep(self.target.work_seconds * self.rng.random() ** 3)
        child.kill()
        child.join()
        self.killed_holding += bool(self.client.zcount("unacked_index", started_at, "+inf"))

    def settle(self) -> None:
        """Let one child work until everything is seen and acknowledged, or nothing changes any more."""
        child = self.child()
        state, quiet_until = self.state(), time.monotonic() + QUIET_SECONDS
        while state != (self.published, 0) and time.monotonic() < quiet_until:
            time.sleep(0.1)
            if self.state() != state:
                state, quiet_until = self.state(), time.monotonic() + QUIET_SECONDS
        child.kill()
        child.join()

    def child(self) -> BaseProcess:
        child = multiprocessing.get_context("fork").Process(target=self.target.run, daemon=True)
        child.start()
        return child

    def seen(self) -> int:
        return int(self.client.scard(SEEN))

    def state(self) -> tuple[int, int]:
        """How many messages were seen, and how many are in some key."""
        waiting = self.client.llen(QUEUE), self.client.hlen("unacked"), self.client.zcard(wire.parked(QUEUE))
        return self.seen(), sum(int(count) for count in waiting)

    def lost(self) -> int:
        """How many messages are in no key and were never seen."""
        client: Any = self.client
        texts = [*client.lrange(QUEUE, 0, -1), *client.zrange(wire.parked(QUEUE), 0, -1)]
        messages = [json.loads(text) for text in texts] + [json.loads(value)[0] for value in client.hvals("unacked")]
        found = {int(number) for number in client.smembers(SEEN)} | {number_in(message) for message in messages}
        return len(set(range(self.published)) - found)


def number_in(message: dict[str, Any]) -> int:
    body = json.loads(base64.b64decode(message["body"]))
    number: int = body if isinstance(body, int) else body[0][0]
    return number


def storm(url: str, *, what: str = "consumer", stock: bool = False, kills: int, messages: int) -> dict[str, int]:
    """How many messages there were, were seen, still wait, and were lost."""
    broker = url if stock else "shoal" + url.removeprefix("redis")
    with redis.Redis.from_url(url) as client:
        running = Storm(client, TARGETS[what](broker, url), random.Random(1))
        for kill in range(1, kills + 1):
            running.publish_until(messages * kill // kills)
            running.kill_one()
        running.settle()
        (seen, waiting), lost = running.state(), running.lost()
    return {
        "messages": messages,
        "kills": kills,
        "killed_holding": running.killed_holding,
        "seen": seen,
        "waiting": waiting,
        "lost": lost,
    }


@click.command()
@click.option("--what", type=click.Choice(list(TARGETS)), default="consumer")
@click.option("--channel", type=click.Choice(["shoal", "stock"]), default="shoal")
@click.option("--kills", default=1_000)
@click.option("--messages", default=20_000)
def main(what: str, channel: str, kills: int, messages: int) -> None:
    logging.disable(logging.ERROR)
    transport.register()
    with services.scratch_dir() as scratch, services.running(os.environ, Path(scratch)) as tree:
        url = services.start_valkey(tree, services.free_port(), Path(scratch))
        began_at = time.monotonic()
        result = storm(url, what=what, stock=channel == "stock", kills=kills, messages=messages)
        seconds = round(time.monotonic() - began_at)
    click.echo(json.dumps({"what": what, "channel": channel, **result, "seconds": seconds}))
    sys.exit(1 if channel == "shoal" and (result["seen"], result["waiting"]) != (messages, 0) else 0)


if __name__ == "__main__":
    main()
