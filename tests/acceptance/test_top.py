"""What a look from outside shows of real workers: `shoal metrics` for Prometheus, `shoal top` for people."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from test_fleet import exporter, scraped

from conftest import Sandbox, Workers, both_stores, eventually, interruptible
from shoal import Classify, JobFailed, ProducerSettings, Shoal
from shoal_worker.metrics import GAUGES

COMMAND = [sys.executable, "-c", "from shoal.cli import main; main()", "top"]
MODEL = '{model="openai/gpt-5.4-nano"}'


def question(number: int, marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}. {marker}", labels=("billing", "bug"))


def shown(workers: Workers, option: str = "--once") -> str:
    """A frame, as wide as a small terminal."""
    environ = {**workers.environ, "COLUMNS": "80"}
    ran = subprocess.run([*COMMAND, option], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert not ran.returncode, ran.stderr
    return ran.stdout


def looked(workers: Workers) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown(workers, "--json"))
    return found


@both_stores
def test_what_runs_waits_fails_and_costs_is_on_the_page_and_in_the_terminal(
    shoal: Shoal, workers: Workers, sandbox: Sandbox
) -> None:
    workers.start(concurrency=10, rpm=6_000)
    answered = shoal.enqueue(question(1))
    answered.result(30)
    with pytest.raises(JobFailed):
        shoal.enqueue(question(2, "[[fault:bad_request]]")).result(30)
    shoal.enqueue(question(3, "[[fault:upstream_429:600]]"))
    sandbox.scenario(latency_seconds=40.0)
    shoal.enqueue(question(4))
    with exporter(workers.environ) as url:
        there = {f"shoal_in_flight_calls{MODEL}": 1, "shoal_parked_jobs": 1, "shoal_calls_per_minute": 3}
        page = eventually(lambda: found if there.items() <= (found := scraped(url)).items() else None, what="all told")
    assert {name.partition("{")[0] for name in page} == {gauge.name for gauge in GAUGES}
    assert page['shoal_dead_letters{cause="request_refused"}'] == 1
    assert page['shoal_failures_per_minute{cause="rate_limited"}'] == page["shoal_refused_calls_per_minute"] == 1
    usage = answered.outcome().usage
    assert page["shoal_cost_usd_per_minute"] == pytest.approx(usage.cost_usd)
    assert page['shoal_tokens_per_minute{type="output"}'] == usage.output_tokens
    assert 0 < page[f"shoal_limit_calls_per_second{MODEL}"] <= 100
    assert page[f"shoal_breaker_open{MODEL}"] == page[f"shoal_paused_seconds{MODEL}"] == 0
    assert page["shoal_results_up"] == 1

    seen = looked(workers)
    assert (seen["running"], seen["slots"], seen["parked"], seen["backlog_jobs"]) == (1, 10, 1, 1)
    assert seen["dead_letters"] == {"request_refused": 1}
    assert seen["last_minute"]["failures"] == {"request_refused": 1, "rate_limited": 1}
    [worker] = seen["workers"]
    assert worker["memory_bytes"] > 20e6
    text = shown(workers)
    assert "1 run in 10 slots" in text
    assert "openai/gpt-5.4-nano: 1 in flight, 0 held back, at most" in text
    assert re.search(r"dead +request_refused 1\n", text)


def test_what_waits_is_named_by_tenant_within_80_columns_and_without_colour(shoal: Shoal, workers: Workers) -> None:
    del shoal
    for number, tenant in enumerate(("acme", "a.rather-long-name-for-a-tenant", "")):
        with Shoal(ProducerSettings.load(redis_url=workers.valkey, tenant=tenant)) as producer:
            producer.enqueue_many(question(1_000 * number + place) for place in range(100 * (number + 1)))
    text = shown(workers)
    assert "600 jobs wait; no worker is there" in text
    assert re.search(r"bulk +\d+ +600 +nobody 300, a.rather-long-name-for-a-tenant 200, ac", text)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    tenants = looked(workers)["lanes"]["bulk"]["tenants"]
    assert {name: lane["jobs"] for name, lane in tenants.items()} == {
        "": 300,
        "a.rather-long-name-for-a-tenant": 200,
        "acme": 100,
    }


def test_a_provider_that_fails_shows_as_an_open_breaker(shoal: Shoal, workers: Workers, sandbox: Sandbox) -> None:
    sandbox.scenario(faults=[{"fault": "server_500"}])
    workers.start()
    for number in range(10):
        shoal.enqueue(question(number))
    eventually(lambda: "the provider fails: one call probes it" in shown(workers), what="an open breaker")
    with exporter(workers.environ) as url:
        eventually(lambda: scraped(url).get(f"shoal_breaker_open{MODEL}") == 1, what="it on the page")


def test_live_it_is_drawn_again_each_second_and_ends_with_ctrl_c(shoal: Shoal, workers: Workers) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    environ = {**workers.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    process = subprocess.Popen(
        COMMAND,
        env=environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=interruptible,  # noqa: PLW1509 no thread of ours holds a lock
    )
    os.close(theirs)
    read = bytearray()

    def drawn(wanted: bytes) -> bool:
        try:
            read.extend(os.read(ours, 100_000))
        except BlockingIOError:
            time.sleep(0.02)
        return wanted in read

    try:
        eventually(lambda: drawn(b"0 jobs wait"), what="a first frame")
        shoal.enqueue(question(1))
        eventually(lambda: drawn(b"1 jobs wait"), what="the job in a later frame")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert b"Traceback" not in read
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_results_that_do_not_answer_leave_the_queues_figures(shoal: Shoal, workers: Workers) -> None:
    shoal.enqueue(question(1))
    workers.environ["SHOAL_RESULT_URL"] = "redis://127.0.0.1:1/0"
    text = shown(workers)
    assert "1 jobs wait" in text
    assert re.search(r"dead +the results do not answer", text)
    with exporter(workers.environ) as url:
        page = eventually(lambda: scraped(url), what="a page")
    assert (page["shoal_results_up"], page["shoal_queue_up"], page["shoal_backlog_jobs"]) == (0, 1, 1)


def test_a_queue_that_does_not_answer_is_an_error(workers: Workers) -> None:
    environ = {**workers.environ, "SHOAL_REDIS_URL": "redis://127.0.0.1:1/0"}
    ran = subprocess.run([*COMMAND, "--once"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (1, "error: the queue did not answer: ConnectionError\n")
