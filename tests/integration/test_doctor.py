"""Every trap as a real server, and the doctor that finds it."""

import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client
from celery import Celery
from click.testing import CliRunner, Result
from kombu import Connection, Queue
from psycopg import sql
from pydantic import SecretStr

from conftest import Sandbox, Workers, eventually
from postgres_server import Postgres
from servers import RABBITMQ, rabbit
from shoal import Classify, Shoal, wire
from shoal.cli import shoal as shoal_command
from shoal.redis_url import open_client
from shoal_worker import services
from shoal_worker.beat_book import BeatBook
from shoal_worker.doctor import command, fleet, flower, postgres, redis
from shoal_worker.doctor import rabbit as rabbitmq
from shoal_worker.doctor.findings import Finding, Grade
from shoal_worker.doctor.places import redis_places
from shoal_worker.settings import WorkerSettings
from shoal_worker.stores.migrations import migrate

SAFE = ("--appendonly", "yes", "--maxmemory-policy", "noeviction")
Valkey = Callable[..., str]
SCHEDULE = """
[nightly]
cron = "0 2 * * *"
kind = "classify"
args = { text = "I was charged twice", labels = ["billing", "bug"] }
"""


@pytest.fixture
def valkey_with(tmp_path: Path) -> Iterator[Valkey]:
    """Starts a Valkey that is set as told; its URL."""
    tree = services.Services(os.environ, tmp_path)

    def start(*options: str) -> str:
        port = services.free_port()
        folder = tmp_path / f"valkey-{port}"
        folder.mkdir()
        fixed = ("--port", str(port), "--dir", str(folder), "--save", "")
        bound = () if "--bind" in options else ("--bind", "127.0.0.1")
        # By itself it takes a port ten thousand higher, which there may not be.
        bus = ("--cluster-port", str(services.free_port())) if "--cluster-enabled" in options else ()
        tree.start("valkey", [services.valkey_executable(), *fixed, *bound, *bus, *options])
        url = f"redis://127.0.0.1:{port}/0"
        tree.await_condition("valkey", lambda: services.answers_ping(url))
        return url

    try:
        yield start
    finally:
        tree.stop()


def bad(found: Any) -> dict[str, str]:
    """Grades by check, of all that is not fine."""
    return {one.check: str(one.grade) for one in found if one.grade != Grade.FINE}


def of_redis(url: str, workers: int = 1) -> list[Finding]:
    [(_, place)] = redis_places(WorkerSettings.load(redis_url=url))

    async def look() -> redis.Facts:
        client = open_client(url, socket_timeout=5)
        try:
            return await redis.look(client)
        finally:
            await client.aclose()

    return list(redis.findings(asyncio.run(look()), place, workers))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (SAFE, {}),
        ((*SAFE[:2], "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), {"redis-eviction": "fault"}),
        ((), {"redis-persistence": "fault"}),
        ((*SAFE, "--appendfsync", "no"), {"redis-persistence": "warning"}),
        ((*SAFE, "--maxclients", "20"), {"redis-connections": "fault"}),
        ((*SAFE, "--timeout", "5"), {"redis-timeout": "warning"}),
        ((*SAFE, "--maxmemory", "1"), {"redis-memory": "fault"}),
        ((*SAFE, "--replicaof", "127.0.0.1 1"), {"redis-replica": "fault"}),
        ((*SAFE, "--cluster-enabled", "yes"), {"redis-cluster": "fault"}),
        (
            (*SAFE, "--bind", "0.0.0.0", "--protected-mode", "no"),
            {"redis-password": "warning"},
        ),
    ],
)
def test_a_redis_that_is_set_wrong_is_found(
    valkey_with: Valkey, options: tuple[str, ...], found: dict[str, str]
) -> None:
    assert bad(of_redis(valkey_with(*options))) == found


def test_a_redis_that_hides_its_settings_is_said_to(valkey_with: Valkey) -> None:
    url = valkey_with(*SAFE)
    with redis_client.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", "-info", "-config")
        client.execute_command("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "-config")
    host = url.partition("://")[2]
    assert bad(of_redis(f"redis://ann:pw@{host}")) == {"redis-hidden": "fault"}
    assert bad(of_redis(f"redis://bob:pw@{host}")) == {}
    [refused] = of_redis(f"redis://ann:wrong@{host}")
    assert (refused.check, refused.grade) == ("redis-away", "fault")
    assert "AuthenticationError" in refused.what


def test_a_redis_that_is_away_is_said_to_be() -> None:
    [away] = of_redis(f"redis://:hidden@127.0.0.1:{services.free_port()}")
    assert (away.check, away.grade, away.what) == ("redis-away", "fault", "the Redis cannot be asked: ConnectionError")


@pytest.fixture
def database(postgres_process: Postgres) -> Iterator[SecretStr]:
    """The URL of a database of our own. The server writes without fsync, which is a fault of its own."""
    url = postgres_process.url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE doctor")
        yield SecretStr(url.rpartition("/")[0] + "/doctor")
        connection.execute("DROP DATABASE doctor WITH (FORCE)")


def of_postgres(url: SecretStr, workers: int = 1) -> dict[str, str]:
    found = bad(postgres.findings(postgres.look(url), workers))
    assert found.pop("postgres-durability") == "fault"
    return found


def test_a_postgres_without_our_tables_is_found(database: SecretStr) -> None:
    assert of_postgres(database) == {"postgres-tables": "fault"}
    migrate(database)
    assert of_postgres(database) == {}
    with psycopg.connect(database.get_secret_value(), autocommit=True) as connection:
        connection.execute("DELETE FROM shoal.migrations WHERE name = (SELECT max(name) FROM shoal.migrations)")
    assert of_postgres(database) == {"postgres-tables": "fault"}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("default_transaction_read_only", "on", {"postgres-read-only": "fault"}),
        ("idle_session_timeout", "5s", {"postgres-timeout": "warning"}),
    ],
)
def test_a_postgres_that_is_set_wrong_is_found(
    database: SecretStr, name: str, value: str, found: dict[str, str]
) -> None:
    migrate(database)
    with psycopg.connect(database.get_secret_value(), autocommit=True) as connection:
        change = sql.SQL("ALTER DATABASE doctor SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
        connection.execute(change)
    assert of_postgres(database) == found


def test_a_postgres_with_too_few_connections_is_found(database: SecretStr) -> None:
    migrate(database)
    assert of_postgres(database, workers=5) == {}
    assert of_postgres(database, workers=6) == {"postgres-connections": "fault"}


def test_a_postgres_that_is_away_or_refuses_is_said_to(postgres_process: Postgres) -> None:
    gone = postgres.look(SecretStr(f"postgresql://ann:hidden@127.0.0.1:{services.free_port()}/x"))
    assert "Connection refused" in gone.away
    assert postgres.look(SecretStr("postgresql://ann:hidden@127.0.0.1:x/y")).away
    unknown = postgres.look(SecretStr(postgres_process.url + "_nobody_made"))
    assert 'database "postgres_nobody_made" does not exist' in unknown.away
    assert "hidden" not in gone.away


@pytest.fixture
def asked(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """What is found of the sandbox as a provider, with some settings."""
    monkeypatch.setenv("SHOAL_OPENROUTER_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("SHOAL_OPENROUTER_API_KEY", "sk-or-v1-hidden")

    def found(**settings: Any) -> dict[str, str]:
        told = asyncio.run(command.of_provider(WorkerSettings.load(**settings)))
        assert "hidden" not in repr(told)
        return bad(told)

    return found


def test_the_key_its_credit_and_the_model_are_asked_for(asked: Callable[..., dict[str, str]], sandbox: Sandbox) -> None:
    assert asked() == {}
    assert asked(model="openai/gpt-5.4-nano-20260317") == {}
    assert asked(model="acme/none") == {"provider-model": "fault"}
    assert asked(price_output_usd=2.0) == {"provider-prices": "warning"}
    sandbox.scenario(key_is_refused=True)
    assert asked() == {"provider-key": "fault"}
    sandbox.scenario(key_limit_usd=0.5)
    assert asked() == {"provider-credit": "warning"}
    sandbox.scenario(key_limit_usd=0.0)
    assert asked() == {"provider-credit": "fault"}
    assert asked(openrouter_base_url=f"http://127.0.0.1:{services.free_port()}") == {"provider-away": "fault"}


def test_without_a_key_there_is_no_model() -> None:
    assert bad(asyncio.run(command.of_provider(WorkerSettings.load()))) == {"provider-key": "fault"}


def of_fleet(url: str) -> dict[str, str]:
    async def look() -> fleet.Facts | None:
        client = open_client(url, socket_timeout=5)
        try:
            return await fleet.look(SecretStr(url), client)
        finally:
            await client.aclose()

    return bad(fleet.findings(asyncio.run(look())))


def test_workers_are_told_from_strangers(
    workers: Workers, valkey: str, client: "redis_client.Redis", tmp_path: Path
) -> None:
    assert of_fleet(valkey) == {"workers": "warning"}
    workers.start()
    eventually(lambda: client.hlen(wire.WORKERS), what="a worker that tells of itself")
    assert of_fleet(valkey) == {}
    # What the release before this one tells.
    told = {"name": "old", "slots": 1, "running": 0, "held": 0, "done_per_second": 0, "capacity_per_second": 1}
    client.hset(wire.WORKERS, "old", f"{int(time.time())} {json.dumps(told)}")
    assert of_fleet(valkey) == {"workers-versions": "warning"}
    client.hdel(wire.WORKERS, "old")
    with stock_worker(valkey, tmp_path):
        assert of_fleet(valkey) == {"workers-foreign": "fault"}


@contextmanager
def stock_worker(url: str, folder: Path) -> Iterator[None]:
    """Celery's own worker, on our queue."""
    tree = services.Services(os.environ, folder)
    program = [
        sys.executable,
        "-m",
        "celery",
        "-b",
        url,
        "worker",
        "-Q",
        wire.QUEUE,
        "-P",
        "solo",
        "-n",
        "stranger@%h",
        "-l",
        "info",
    ]
    tree.start("stranger", program)
    try:
        tree.await_condition("the stranger", lambda: b" ready." in (folder / "stranger.log").read_bytes())
        yield
    finally:
        tree.stop()


def test_tasks_of_another_application_in_our_queue_are_found(shoal: Shoal, valkey: str) -> None:
    shoal.enqueue(Classify(text="I was charged twice", labels=("billing", "bug")))
    with Celery(broker=valkey, set_as_current=False) as other:
        other.send_task("mail.send", queue=wire.QUEUE)
    assert of_fleet(valkey) == {"workers": "warning", "queue-foreign": "fault"}


def test_a_schedule_without_a_beat_is_found(valkey: str, tmp_path: Path) -> None:
    async def found() -> dict[str, str]:
        return bad(await command.of_schedule(WorkerSettings.load(redis_url=valkey)))

    async def led() -> dict[str, str]:
        book = BeatBook(open_client(valkey), "1@here", lease_seconds=30)
        assert await book.lead()
        await book.aclose()
        return await found()

    assert asyncio.run(found()) == {}
    schedule = tmp_path / "schedule.toml"
    schedule.write_text(SCHEDULE)
    assert asyncio.run(found()) == {"beat": "warning"}
    assert asyncio.run(led()) == {}
    schedule.write_text(SCHEDULE.replace("0 2 * * *", "0 2 * *"))
    assert asyncio.run(found()) == {"schedule": "fault"}


@contextmanager
def running_flower(url: str, folder: Path, *options: str, **environ: str) -> Iterator[str]:
    tree, port = services.Services({**os.environ, **environ}, folder), services.free_port()
    tree.start("flower", [sys.executable, "-m", "celery", "-b", url, "flower", f"--port={port}", *options])
    address = f"http://127.0.0.1:{port}"
    try:
        tree.await_condition("flower", lambda: asyncio.run(flower.look(address)).is_there)
        yield address
    finally:
        tree.stop()


def test_an_open_flower_is_found(valkey: str, tmp_path: Path) -> None:
    def found(address: str) -> dict[str, str]:
        return bad(flower.findings(asyncio.run(flower.look(address)), address))

    assert found(f"http://127.0.0.1:{services.free_port()}") == {}
    with running_flower(valkey, tmp_path, "--address=0.0.0.0", FLOWER_UNAUTHENTICATED_API="true") as address:
        is_reached = {"flower-open": "fault"} if flower.outside(address) else {}
        assert found(address) == {"flower-api": "fault"} | is_reached
    with running_flower(valkey, tmp_path, "--address=0.0.0.0", "--basic-auth=ann:pw") as address:
        assert found(address) == {}


def test_a_rabbitmq_with_another_queue_of_our_name_is_found(tmp_path: Path) -> None:
    if not RABBITMQ.exists():
        pytest.skip(f"no RabbitMQ: {RABBITMQ} is not there; install rabbitmq-server, or set SHOAL_TEST_RABBITMQ")
    with rabbit(tmp_path / "rabbit") as server:
        with Connection(server.url) as connection, connection.channel() as channel:
            channel.queue_delete(wire.QUEUE)
            Queue(wire.QUEUE, durable=True)(channel).declare()
            other = rabbitmq.look(server.url)
            channel.queue_delete(wire.QUEUE)
        assert bad(rabbitmq.findings(other, 300)) == {"rabbitmq-queue": "fault"}
        assert bad(rabbitmq.findings(rabbitmq.look(server.url), 300)) == {}
        assert bad(rabbitmq.findings(rabbitmq.look(server.url), 1_700)) == {"rabbitmq-timeout": "warning"}
    assert bad(rabbitmq.findings(rabbitmq.look(server.url), 300)) == {"rabbitmq-away": "fault"}


@pytest.fixture
def environ(sandbox: Sandbox, valkey_with: Valkey) -> dict[str, str]:
    """Settings with which all is well, but for a worker."""
    return {
        "SHOAL_REDIS_URL": valkey_with(*SAFE),
        "SHOAL_OPENROUTER_BASE_URL": sandbox.base_url,
        "SHOAL_OPENROUTER_API_KEY": "sk-or-v1-hidden",
    }


NO_FLOWER = ("--flower", "http://127.0.0.1:1")


def test_the_command_fails_for_faults_and_for_warnings_only_when_told(environ: dict[str, str]) -> None:
    def doctor(*options: str) -> Result:
        return CliRunner().invoke(shoal_command, ["doctor", *NO_FLOWER, *options], env=environ)

    well = doctor()
    assert well.exit_code == 0, well.output
    assert "no worker answers" in well.output
    assert well.output.endswith("0 to mend, 1 to know, 12 fine\n")
    strict = doctor("--strict", "--json")
    assert strict.exit_code == 1
    told = json.loads(strict.output)
    assert not told["ok"]
    assert {one["check"] for one in told["findings"] if one["grade"] == "warning"} == {"workers"}


def test_a_wrong_clock_and_too_few_files_are_found(environ: dict[str, str]) -> None:
    if shutil.which("faketime") is None:
        pytest.skip("needs libfaketime: apt-get install faketime")
    words = ["faketime", "-f", "+1h", sys.executable, "-c", "from shoal.cli import main; main()", "doctor", "--json"]
    asked = subprocess.run(
        [*words, *NO_FLOWER],
        env={**os.environ, **environ},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    faults = {one["check"]: one["what"] for one in json.loads(asked.stdout)["findings"] if one["grade"] == "fault"}
    assert faults.keys() == {"clock", "files"}
    assert "this clock is 3600 s ahead of that of the Redis" in faults["clock"]
    assert asked.returncode == 1


def test_wrong_settings_are_told_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_REDIS_URL", "redis://:hidden@127.0.0.1:1")
    monkeypatch.setenv("SHOAL_LEASE_SECONDS", "90")
    [wrong] = command.diagnosis(workers=1, flower_address="http://127.0.0.1:1")
    assert (wrong.check, wrong.grade) == ("settings", "fault")
    assert "SHOAL_LEASE_SECONDS (90) must be less than" in wrong.what
    monkeypatch.delenv("SHOAL_LEASE_SECONDS")
    found = command.diagnosis(workers=1, flower_address="http://127.0.0.1:1")
    assert bad(found) == {"redis-away": "fault", "provider-key": "fault"}
    assert "hidden" not in repr([wrong, *found])
