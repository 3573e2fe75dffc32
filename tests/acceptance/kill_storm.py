"""Kill a consumer at random moments, again and again, and count what was lost: a message taken and never seen.

`python tests/acceptance/kill_storm.py --channel shoal|stock --kills 1000 --messages 20000` prints one line. Children
are forked from this process, so that a restart costs milliseconds. Each notes a message as seen before it
acknowledges it; whatever is neither seen nor in a queue at the end is lost.
"""

import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import click
import redis
from kombu import Connection, Consumer, Queue

from shoal_worker import services, transport

QUEUE = "storm"
SEEN = "storm:seen"
VISIBILITY_SECONDS = 2


def consume(broker: str, url: str) -> None:
    """Take messages and acknowledge them until killed."""
    logging.disable(logging.WARNING)
    transport.register()
    client = redis.Redis.from_url(url)
    options = {"visibility_timeout": VISIBILITY_SECONDS, "unacked_restore_throttle": 1}

    def seen(body: object, message: object) -> None:
        client.sadd(SEEN, str(body))
        message.ack()  # type: ignore[attr-defined]  # kombu's Message

    with Connection(broker, transport_options=options) as connection:
        channel = connection.channel()
        with Consumer(channel, [Queue(QUEUE, routing_key=QUEUE)], callbacks=[seen], prefetch_count=50):
            while True:
                channel.qos.restore_visible(num=1000, interval=1)
                try:
                    connection.drain_events(timeout=0.2)
                except TimeoutError:
                    continue


def storm(url: str, *, stock: bool, kills: int, messages: int, seed: int = 1) -> dict[str, int]:
    """How many messages there were, were seen, still wait, and were lost: are in no key and were never seen."""
    client = redis.Redis.from_url(url)
    with Connection(url) as connection:
        producer = connection.Producer()
        for number in range(messages):
            producer.publish(number, routing_key=QUEUE, declare=[Queue(QUEUE, routing_key=QUEUE)])
    broker = url if stock else "shoal" + url.removeprefix("redis")
    rng = random.Random(seed)
    context = multiprocessing.get_context("fork")
    for _ in range(kills):
        before = client.scard(SEEN)
        child = context.Process(target=consume, args=(broker, url))
        child.start()
        while client.scard(SEEN) == before and client.scard(SEEN) < messages and child.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    last = context.Process(target=consume, args=(broker, url))
    last.start()
    quiet_until = time.monotonic() + 4 * VISIBILITY_SECONDS + 2
    seen = client.scard(SEEN)
    while time.monotonic() < quiet_until and seen < messages:
        time.sleep(0.1)
        if client.scard(SEEN) != seen:
            seen, quiet_until = client.scard(SEEN), time.monotonic() + 4 * VISIBILITY_SECONDS + 2
    last.kill()
    last.join()
    waiting = client.llen(QUEUE) + client.hlen("unacked")
    client.close()
    lost = messages - int(seen) - int(waiting)
    return {"messages": messages, "kills": kills, "seen": int(seen), "waiting": int(waiting), "lost": lost}


@click.command()
@click.option("--channel", type=click.Choice(["shoal", "stock"]), default="shoal")
@click.option("--kills", default=1_000)
@click.option("--messages", default=20_000)
def main(channel: str, kills: int, messages: int) -> None:
    with services.scratch_dir() as scratch, services.running(os.environ, Path(scratch)) as tree:
        url = services.start_valkey(tree, services.free_port(), Path(scratch))
        result = storm(url, stock=channel == "stock", kills=kills, messages=messages)
    click.echo(json.dumps({"channel": channel, **result}))
    sys.exit(1 if channel == "shoal" and result["seen"] < messages else 0)


if __name__ == "__main__":
    main()
