"""The ledger of calls against the provider's own bill, through real workers. The provider is the sandbox.

What must always hold: no billed call is missing (bill ≤ billed + maybe billed), and none is counted that was not
billed (billed ≤ bill).
"""

import json
import os
import signal
import subprocess
import sys
from typing import Any
from urllib.request import urlopen

import pytest
import redis

from conftest import Kept, Sandbox, Workers, both_stores, eventually
from shoal import Classify, Rank, Shoal, Summarize
from shoal.costs import Cost, nano_usd
from shoal.jobs import Args, Status

LABELS = ("billing", "bug")
SHORT = {"lease_seconds": 1, "visibility_timeout_seconds": 2, "model_deadline_seconds": 4}


def question(number: int = 0, marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice, case {number}. {marker}", labels=LABELS)


def shoal_cost(workers: Workers, *options: str) -> str:
    """What the command says to a person with a terminal of 100 columns."""
    command = [sys.executable, "-c", "from shoal.cli import main; main()", "cost", *options]
    environ = {**workers.environ, "COLUMNS": "100"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout


def requests(sandbox: Sandbox) -> list[dict[str, Any]]:
    """What the provider has seen."""
    with urlopen(f"{sandbox.control}/requests") as reply:
        told: list[dict[str, Any]] = json.loads(reply.read())["requests"]
        return told


def balanced(kept: Kept, sandbox: Sandbox) -> Cost:
    """The books, when no call is open any more; they must agree with the bill."""
    eventually(lambda: kept.open_calls() == 0, 60, "an end of all calls")
    eventually(lambda: sandbox.bill()["in_flight"] == 0, what="an end of all requests")
    cost, bill = kept.cost(), sandbox.bill()
    assert cost.billed_calls <= bill["billed_calls"] <= cost.billed_calls + cost.maybe_calls
    assert cost.billed_nano_usd <= nano_usd(bill["cost_usd"]) <= cost.billed_nano_usd + cost.maybe_nano_usd
    return cost


def settled(kept: Kept, sandbox: Sandbox) -> Cost:
    """The books when they are the bill, to the last digit, with nothing in doubt."""
    eventually(lambda: kept.cost().billed_calls == sandbox.bill()["billed_calls"], 60, "books that are the bill")
    cost = balanced(kept, sandbox)
    assert cost.billed_nano_usd == nano_usd(sandbox.bill()["cost_usd"])
    return cost


def test_a_normal_day_is_the_providers_bill_to_the_last_digit(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, client: "redis.Redis", kept: Kept
) -> None:
    workers.start()
    jobs: list[Args[Any]] = [question(number) for number in range(200)]
    jobs += [question(number, "[[fault:server_500*1]] [[fault:misfit_json*1]]") for number in range(3)]
    jobs += [Rank(query="cat", documents=("cats", "dogs")), Summarize(text="One fish. Two fish. Red fish.")]
    long_list = tuple(f"label number {number} with a long name" for number in range(150))
    jobs += [Classify(text=f"It is label number {number}", labels=long_list) for number in range(4)]
    outcomes = list(shoal.map(jobs, on_failure=lambda _: None))
    cost = settled(kept, sandbox)
    assert len(outcomes) == len(jobs)
    assert (cost.maybe_calls, cost.replayed_calls, cost.joined_jobs) == (0, 0, 0)
    assert cost.billed_nano_usd == sum(nano_usd(outcome.usage.cost_usd) for outcome in outcomes)
    assert cost.cached_tokens > 0
    assert cost.cache_saved_nano_usd == cost.cached_tokens * 180
    told = json.loads(shoal_cost(workers, "--by", "kind", "--json"))
    assert [row["kind"] for row in told["rows"]] == ["classify", "rank", "summarize"]
    assert told["total"]["billed_usd"] == pytest.approx(sandbox.bill()["cost_usd"], abs=1e-9)
    assert all(client.ttl(calls) <= 10 for calls in client.keys("shoal:calls:*"))
    assert all(0 < client.ttl(day) <= 400 * 86_400 for day in client.keys("shoal:cost:*"))


def test_an_answer_lost_with_its_worker_is_settled_by_its_replay(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, client: "redis.Redis", kept: Kept
) -> None:
    """The store is frozen while the answer comes, so that the killed worker can write nothing down."""
    server = int(client.info()["process_id"])
    sandbox.scenario(latency_seconds=1.0)
    worker = workers.start(**SHORT)
    job = shoal.enqueue(question())
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="the call")
    os.kill(server, signal.SIGSTOP)
    try:
        eventually(lambda: sandbox.bill()["in_flight"] == 0, what="the answer")
        worker.kill()
        worker.wait()
    finally:
        os.kill(server, signal.SIGCONT)
    assert kept.open_calls() == 1
    workers.start(**SHORT)
    assert job.result(60).label == "billing"
    cost = settled(kept, sandbox)
    assert (cost.billed_calls, cost.maybe_calls, cost.replayed_calls) == (1, 0, 1)
    assert cost.replay_saved_nano_usd == cost.billed_nano_usd > 0


@both_stores
def test_a_call_in_flight_at_a_kill_is_maybe_billed(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    """Its answer reached nobody and was not kept: it is billed twice, and the first has no known generation."""
    sandbox.scenario(latency_seconds=1.0)
    worker = workers.start(**SHORT)
    jobs = [shoal.enqueue(question(number)) for number in range(20)]
    eventually(lambda: sandbox.bill()["in_flight"] == 20, what="the calls")
    worker.kill()
    worker.wait()
    workers.start(**SHORT)
    for job in jobs:
        job.result(60)
    cost = balanced(kept, sandbox)
    assert (cost.billed_calls, cost.maybe_calls) == (20, 20)
    assert sandbox.bill()["billed_calls"] == 40


@both_stores
@pytest.mark.parametrize("fault", ["cut_body", "drip_whitespace:6"])
def test_a_reply_lost_after_its_headers_is_looked_up(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept, fault: str
) -> None:
    """Cut, or longer than the deadline."""
    workers.start(**SHORT)
    job = shoal.enqueue(question(marker=f"[[fault:{fault}*1]]"))
    assert job.outcome(60).attempts == 2
    cost = settled(kept, sandbox)
    assert (cost.billed_calls, cost.maybe_calls) == (2, 0)


@both_stores
def test_a_deadline_before_the_headers_stays_maybe_billed(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    workers.start(**SHORT)
    job = shoal.enqueue(question(marker="[[fault:slow_headers:6*1]]"))
    assert job.outcome(60).attempts == 2
    cost = balanced(kept, sandbox)
    assert (cost.billed_calls, cost.maybe_calls) == (1, 1)


@both_stores
@pytest.mark.parametrize("headers", [True, False])
def test_a_cancelled_call_is_closed_and_what_it_cost_is_found_out(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept, *, headers: bool
) -> None:
    workers.start()
    job = shoal.enqueue(question(marker=f"[[fault:{'drip_whitespace' if headers else 'slow_headers'}:4]]"))
    eventually(lambda: job.status() == Status.RUNNING, what="a running job")
    eventually(lambda: sandbox.bill()["billed_calls"] == 1, what="a call that the provider bills")
    assert job.cancel()
    eventually(lambda: kept.open_calls() == 0, what="the closed call")
    eventually(lambda: requests(sandbox)[0]["client_disconnected"], what="a provider that has seen it closed")
    if headers:
        assert settled(kept, sandbox).billed_calls == 1
    else:
        assert balanced(kept, sandbox).maybe_calls == 1


@both_stores
def test_a_stopping_worker_that_has_no_time_leaves_no_call_uncounted(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    """A second signal cancels what runs. The calls are closed, and the jobs answered by the next worker."""
    sandbox.scenario(latency_seconds=2.0)
    worker = workers.start(**SHORT)
    jobs = [shoal.enqueue(question(number)) for number in range(20)]
    eventually(lambda: sandbox.bill()["in_flight"] == 20, what="the calls")
    worker.send_signal(signal.SIGQUIT)
    worker.wait(30)
    assert kept.open_calls() == 0
    assert kept.cost().maybe_calls == 20
    workers.start(**SHORT)
    for job in jobs:
        job.result(60)
    assert balanced(kept, sandbox).billed_calls == 20


@both_stores
def test_a_thousand_joins_show_what_they_saved(shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept) -> None:
    """Half of them while the job waits, half when it has its answer."""
    jobs = [shoal.enqueue(question()) for _ in range(500)]
    workers.start()
    price = nano_usd(jobs[0].outcome(30).usage.cost_usd)
    jobs += [shoal.enqueue(question()) for _ in range(501)]
    assert len({job.id for job in jobs}) == 1
    cost = settled(kept, sandbox)
    assert (cost.billed_calls, cost.billed_nano_usd) == (1, price)
    assert (cost.joined_jobs, cost.joined_saved_nano_usd) == (1_000, 1_000 * price)
    told = json.loads(shoal_cost(workers, "--by", "model", "--since", "1d", "--json"))
    assert told["rows"] == [{"model": "openai/gpt-5.4-nano", **cost.as_json()}]
    last = shoal_cost(workers).splitlines()[-1].split()
    assert last == f"total 1 {price / 1e9:.6f} 0 0 0 0 0 1,000 {1_000 * price / 1e9:.6f}".split()


def test_a_store_that_is_away_loses_no_settlement(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, client: "redis.Redis", kept: Kept
) -> None:
    server = int(client.info()["process_id"])
    sandbox.scenario(latency_seconds=1.0)
    workers.start()
    jobs = [shoal.enqueue(question(number)) for number in range(20)]
    eventually(lambda: sandbox.bill()["in_flight"] == 20, what="the calls")
    os.kill(server, signal.SIGSTOP)
    try:
        # Longer than the worker waits for a reply of its store.
        eventually(lambda: b"Timeout" in workers.log() or b"Error" in workers.log(), 40, "a store that is missed")
    finally:
        os.kill(server, signal.SIGCONT)
    for job in jobs:
        job.result(60)
    assert settled(kept, sandbox).maybe_calls == 0


def await_calls(sandbox: Sandbox, more: int) -> None:
    before = sandbox.bill()["requests"]
    eventually(lambda: sandbox.bill()["requests"] >= before + more, what=f"{more} more calls")


@both_stores
def test_kills_and_faults_together_leave_the_books_true(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, kept: Kept
) -> None:
    """Each job meets a fault of its own, and three workers are killed with all they have in their hands."""
    faults = ("cut_body*1", "connection_reset*1", "server_500*1", "empty_stop*1", "drip_whitespace:6*1", "refusal*1")
    sandbox.scenario(latency_seconds=0.5)
    jobs = [shoal.enqueue(question(number, f"[[fault:{faults[number % 6]}]]")) for number in range(120)]
    for _ in range(3):
        worker = workers.start(**SHORT)
        await_calls(sandbox, 20)
        worker.kill()
        worker.wait()
    workers.start(**SHORT)
    over = {Status.COMPLETED, Status.DISCARDED}
    eventually(lambda: all(job.status() in over for job in jobs), 90, "an end of all jobs")
    cost = balanced(kept, sandbox)
    assert cost.maybe_calls > 0
