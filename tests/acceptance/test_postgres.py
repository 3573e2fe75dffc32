"""Results in Postgres: the outbox, SQL views, a plain Celery client. The main job is in test_main_job.py."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import redis
from celery import Celery
from celery.result import AsyncResult

from conftest import Kept, Sandbox, Workers, eventually
from shoal import Classify, JobFailed, ProducerSettings, Shoal, Status

pytestmark = pytest.mark.parametrize("results", ["postgres"], indirect=True)
LABELS = ("billing", "bug", "praise")


def question(number: int = 0, marker: str = "") -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}. {marker}", labels=LABELS)


def shoal_command(workers: Workers, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from shoal.cli import main; main()", *words]
    return subprocess.run(command, env=workers.environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_plain_celery_client_finds_answers_and_failures(shoal: Shoal, workers: Workers, kept: Kept) -> None:
    workers.start()
    good, bad = shoal.enqueue(question()), shoal.enqueue(question(1, "[[fault:bad_request*1]]"))
    assert kept.result_url is not None
    backend = kept.result_url.replace("postgresql://", "db+postgresql+psycopg://")
    app = Celery(broker=shoal.settings.redis_url.get_secret_value(), backend=backend, set_as_current=False)
    answer = AsyncResult(good.id, app=app).get(timeout=30)
    assert answer["result"]["labels"][0]["name"] == "billing"
    with pytest.raises(JobFailed, match="400"):
        AsyncResult(bad.id, app=app).get(timeout=30)
    assert AsyncResult("nobody", app=app).state == "PENDING"
    app.close()


def test_people_can_query_results_and_failures(shoal: Shoal, workers: Workers, kept: Kept) -> None:
    workers.start()
    outcome = shoal.enqueue(question()).outcome(30)
    for number in (1, 2):
        with pytest.raises(JobFailed):
            shoal.enqueue(question(number, "[[fault:bad_request*1]]")).result(30)
    [(label, cost_usd, tokens, model)] = kept.sql(
        "SELECT result #>> '{labels,0,name}', cost_usd, input_tokens, model FROM shoal.results WHERE kind = 'classify'"
    )
    assert (label, float(cost_usd), tokens) == ("billing", outcome.usage.cost_usd, outcome.usage.input_tokens)
    assert model == outcome.model
    [(cause, letters)] = kept.sql("SELECT cause, letters FROM shoal.failures")
    assert (cause, letters) == ("request_refused", 2)


def test_a_job_enqueued_while_the_queue_is_away_is_accepted_and_run_later(workers: Workers, kept: Kept) -> None:
    assert kept.result_url is not None
    nowhere = "redis://127.0.0.1:1/0"
    with Shoal(ProducerSettings.load(redis_url=nowhere, result_url=kept.result_url)) as cut_off:
        job = cut_off.enqueue(question())
        assert job.status() == Status.AVAILABLE
        workers.start()
        assert job.result(60).label == "billing"


def test_a_queue_that_lost_everything_is_filled_again(
    shoal: Shoal, workers: Workers, sandbox: Sandbox, client: "redis.Redis", kept: Kept
) -> None:
    workers.start()
    done = shoal.enqueue(question(1000))
    done.result(30)
    retried = shoal.enqueue(question(1001, "[[fault:upstream_429:15*1]]"))
    eventually(lambda: retried.status() == Status.RETRYABLE, what="its wait")
    workers.processes[0].terminate()
    workers.processes[0].wait()
    jobs = [shoal.enqueue(question(number)) for number in range(50)]
    assert client.llen("shoal") == 50
    client.flushall()
    assert shoal_command(workers, "recover", "--older-than-seconds", "3600").stdout == "queued 0 jobs again\n"
    recovered = shoal_command(workers, "recover")
    assert recovered.stdout == "queued 50 jobs again\n", recovered.stderr
    assert client.llen("shoal") == 50
    workers.start()
    for job in (*jobs, retried):
        assert job.result(60).label == "billing"
    eventually(lambda: kept.unfinished() == 0, what="nothing left")
    assert sandbox.bill()["billed_calls"] == 52


def test_a_job_that_ends_while_it_is_enqueued_again_is_joined(shoal: Shoal, postgres: str) -> None:
    """The claim sees the job's row as it is when the lock is had, and the endings as they were when it began."""
    job = shoal.enqueue(question())
    with psycopg.connect(postgres) as ending, psycopg.connect(postgres, autocommit=True) as looking:
        ending.execute("UPDATE shoal.jobs SET status = 'completed', due_at = NULL WHERE id = %s", (job.id,))
        ending.execute(
            "INSERT INTO shoal.endings (job_id, status, record, finished_at, keep_until) "
            "VALUES (%s, 'completed', %s, now(), now() + interval '1 hour')",
            (job.id, '{"result": {"model": "m", "usage": {"cost_usd": 0.001}}}'),
        )
        with ThreadPoolExecutor(1) as pool:
            again = pool.submit(shoal.enqueue, question())
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            eventually(lambda: looking.execute(waiting).fetchone() == (1,), what="a claim that waits for the row")
            ending.commit()
            assert again.result(30).joined
    assert shoal.status(job.id) == Status.COMPLETED
