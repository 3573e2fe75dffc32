"""A Postgres that is killed, full, read-only or out of connections while jobs run; one that has no tables yet."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psycopg
import pytest
from pydantic import SecretStr

from conftest import Kept, Sandbox, Workers, eventually
from postgres_server import Postgres, postgres_server
from shoal import Classify, ProducerSettings, QueueUnavailable, Shoal, ShoalError
from shoal_worker.stores.migrations import known, migrate

JOBS = 300


@pytest.fixture
def server() -> Iterator[Postgres]:
    """One that the test may stop."""
    with postgres_server("max_connections=14", "superuser_reserved_connections=2") as running:
        migrate(SecretStr(running.url))
        yield running


def question(number: int) -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}.", labels=("billing", "bug"))


def survive(
    server: Postgres, workers: Workers, sandbox: Sandbox, strike: Callable[[], None], heal: Callable[[], None]
) -> None:
    """Jobs flow, the database is struck, nothing can be stored, it is healed, every job has one answer."""
    sandbox.scenario(latency_seconds=0.2)
    worker = workers.start(result_url=server.url, concurrency=20)
    kept = Kept(workers.valkey, server.url)
    with Shoal(ProducerSettings.load(redis_url=workers.valkey, result_url=server.url)) as shoal:
        jobs = [shoal.enqueue(question(number)) for number in range(JOBS)]
        eventually(lambda: sandbox.bill()["billed_calls"] > 40, what="some answers")
        strike()
        # All slots come to hold an answer that cannot be stored: then nothing moves any more.
        eventually(lambda: b"store_is_away" in workers.log(), what="a worker that has noticed")
        heal()
        for job in jobs:
            assert job.result(60).label == "billing"
        eventually(lambda: kept.unfinished() == 0, what="nothing left")
    assert kept.answers() == JOBS
    assert sandbox.bill()["billed_calls"] == JOBS
    assert worker.poll() is None


def test_killed_and_restarted(server: Postgres, workers: Workers, sandbox: Sandbox) -> None:
    survive(server, workers, sandbox, lambda: server.stop(signal.SIGQUIT), server.start)


def test_a_full_disk(server: Postgres, workers: Workers, sandbox: Sandbox) -> None:
    def strike() -> None:
        server.run(
            """
            CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER full_disk BEFORE INSERT ON shoal.endings FOR EACH ROW EXECUTE FUNCTION full_disk()
            """
        )

    def heal() -> None:
        server.run("DROP TRIGGER full_disk ON shoal.endings")

    survive(server, workers, sandbox, strike, heal)


def test_a_failover_to_a_replica_that_is_read_only_at_first(
    server: Postgres, workers: Workers, sandbox: Sandbox
) -> None:
    def set_read_only(value: str) -> None:
        server.run(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        server.run("SELECT pg_reload_conf()")

    def heal() -> None:
        with psycopg.connect(server.url, autocommit=True, options="-c default_transaction_read_only=off") as admin:
            admin.execute("ALTER SYSTEM SET default_transaction_read_only = off")
            admin.execute("SELECT pg_reload_conf()")

    survive(server, workers, sandbox, lambda: set_read_only("on"), heal)


def test_no_connection_left(server: Postgres, workers: Workers, sandbox: Sandbox) -> None:
    taken: list[psycopg.Connection] = []

    def strike() -> None:
        server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shoal'")
        while len(taken) < 14:
            try:
                taken.append(psycopg.connect(server.url))
            except psycopg.OperationalError:
                # Those that come in between are ended too, until all are ours.
                if taken:
                    taken[0].execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shoal'"
                    )
                    taken[0].commit()

    def heal() -> None:
        for connection in taken:
            connection.close()

    survive(server, workers, sandbox, strike, heal)


def test_a_producer_is_told_when_the_database_is_away(server: Postgres, valkey: str) -> None:
    server.stop(signal.SIGINT)
    with (
        Shoal(ProducerSettings.load(redis_url=valkey, result_url=server.url)) as shoal,
        pytest.raises(QueueUnavailable, match="the database did not answer"),
    ):
        shoal.enqueue(question(0))


def test_a_database_without_tables(valkey: str, sandbox: Sandbox) -> None:
    with postgres_server() as server:
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")},
            "SHOAL_REDIS_URL": valkey,
            "SHOAL_RESULT_URL": server.url,
            "SHOAL_OPENROUTER_BASE_URL": sandbox.base_url,
        }
        command = [sys.executable, "-m", "shoal_worker"]
        refused = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 1
        assert "run `shoal migrate`" in refused.stderr
        with Shoal(ProducerSettings.load(redis_url=valkey, result_url=server.url)) as shoal:
            with pytest.raises(ShoalError, match="run `shoal migrate`"):
                shoal.enqueue(question(0))
            migrating = [sys.executable, "-c", "from shoal.cli import main; main()", "migrate"]
            together = [subprocess.Popen(migrating, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(4)]
            said = sorted(process.communicate()[0] for process in together)
            assert said == ["".join(f"applied {name}\n" for name, _ in known()), *["nothing to do\n"] * 3]
            shoal.enqueue(question(0))
