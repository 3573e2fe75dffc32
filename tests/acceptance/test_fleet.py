"""The fleet as it tells of itself: to `shoal metrics`, and to its own autoscaler."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

from conftest import Sandbox, Workers, eventually
from shoal import Classify, Shoal
from shoal.fleet import FleetView, open_fleet
from shoal_worker import services


def question(number: int, marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}. {marker}", labels=("billing", "bug"))


def look(valkey: str) -> FleetView:
    async def ask() -> FleetView:
        fleet = open_fleet(valkey)
        try:
            return await fleet.look()
        finally:
            await fleet.aclose()

    return asyncio.run(ask())


@contextmanager
def exporter(environ: dict[str, str]) -> Iterator[str]:
    port = services.free_port()
    command = [sys.executable, "-c", "from shoal.cli import main; main()", "metrics", "--port", str(port)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        process.kill()
        process.wait()


def scraped(url: str) -> dict[str, float]:
    try:
        with urlopen(url) as reply:
            text = reply.read().decode()
    except URLError:
        return {}
    return {name: float(number) for name, number in re.findall(r"^(shoal_\S+) (\S+)$", text, re.MULTILINE)}


def test_what_waits_is_counted_by_jobs_and_by_lane_with_no_worker_there(shoal: Shoal, workers: Workers) -> None:
    shoal.enqueue_many(question(number) for number in range(120))
    for number in range(3):
        shoal.enqueue(question(1_000 + number))
    with exporter(workers.environ) as url:
        eventually(lambda: scraped(url), what="an answer")
        found = scraped(url)
    assert found['shoal_waiting_jobs{lane="interactive"}'] == 3
    assert 100 <= found['shoal_waiting_jobs{lane="bulk"}'] <= 150
    assert found["shoal_workers"] == found["shoal_slots"] == 0
    assert found["shoal_drain_seconds"] == found["shoal_backlog_jobs"]
    assert found["shoal_queue_up"] == 1


def test_fetched_and_parked_jobs_are_in_the_backlog_too(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, valkey: str
) -> None:
    sandbox.scenario(latency_seconds=8.0)
    shoal.enqueue(question(-1, "[[fault:upstream_429:600]]"))
    shoal.enqueue_many(question(number) for number in range(40))
    workers.start(concurrency=10)
    eventually(lambda: look(valkey).parked == 1, what="the parked one")
    view = eventually(lambda: seen if (seen := look(valkey)).running == 10 else None, what="the others running")
    assert (view.slots, view.held, view.backlog_jobs) == (10, 40, 31)
    assert view.lanes["bulk"].jobs == 0
    workers.processes[0].kill()
    eventually(lambda: look(valkey).workers == (), what="the dead one forgotten")


def test_the_pool_grows_by_the_backlog_at_once_and_shrinks_when_there_is_none(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, valkey: str
) -> None:
    sandbox.scenario(latency_seconds=1.0)
    workers.command = ("-m", "shoal_worker", "--autoscale=60,2")
    workers.start()
    jobs = shoal.enqueue_many(question(number) for number in range(200))
    eventually(lambda: sandbox.bill()["in_flight"] > 50, 10, "most slots in use")
    for job in jobs:
        job.result(60)
    eventually(lambda: [worker.slots for worker in look(valkey).workers] == [2], 60, "the slots gone again")
