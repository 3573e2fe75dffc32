"""What the runbook says for the worst day, as it is written: Postgres from a dump, and a queue that is empty."""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from conftest import Kept, Sandbox, Workers
from postgres_server import programs
from shoal import Classify, Shoal


def question(number: int) -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}.", labels=("billing", "bug"))


@pytest.mark.parametrize("results", ["postgres"], indirect=True)
def test_a_restored_database_fills_the_queue_and_pays_for_no_answer_that_it_has(
    workers: Workers,
    sandbox: Sandbox,
    shoal: Shoal,
    kept: Kept,
    results: dict[str, str],
    tmp_path: Path,
) -> None:
    def run(*command: object) -> None:
        subprocess.run([str(part) for part in command], env=workers.environ, check=True, stdout=subprocess.DEVNULL)

    url, dump = results["result_url"], tmp_path / "dump.sql"
    worker = workers.start()
    for number in range(3):
        shoal.enqueue(question(number)).result(30)
    worker.terminate()
    worker.wait(30)
    waiting = [shoal.enqueue(question(number)) for number in range(3, 8)]
    run(programs() / "bin" / "pg_dump", "--clean", "--if-exists", "-f", dump, url)
    shoal.enqueue(question(99))  # after the backup: it is lost with the day
    with redis.Redis.from_url(workers.valkey) as client:
        client.flushdb()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA shoal CASCADE")
    run(programs() / "bin" / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-f", dump, url)
    for command in ("migrate", "recover"):
        run(sys.executable, "-c", "from shoal.cli import main; main()", command)
    workers.start()
    for job in waiting:
        job.result(30)
    assert shoal.enqueue(question(1)).result(30)
    assert kept.answers() == sandbox.bill()["billed_calls"] == 8
    assert kept.sql("SELECT count(*) FROM celery_taskmeta") == [(8,)]
