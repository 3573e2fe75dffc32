"""A Postgres that is away when a job is enqueued, and one that has no tables yet. Faults under load: the matrix."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from conftest import Sandbox
from postgres_server import Postgres, postgres_server
from shoal import Classify, ProducerSettings, QueueUnavailable, Shoal, ShoalError
from shoal_worker.stores.migrations import known, migrate


@pytest.fixture
def server() -> Iterator[Postgres]:
    """One that the test may stop."""
    with postgres_server() as running:
        migrate(SecretStr(running.url))
        yield running


def question(number: int) -> Classify:
    return Classify(text=f"I was charged twice by billing, case {number}.", labels=("billing", "bug"))


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
