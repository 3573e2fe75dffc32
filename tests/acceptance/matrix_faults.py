"""The menu of faults: each strikes a running cell and has ended when its function returns."""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis
from dying_worker import STEPS
from matrix_cell import CONCURRENCY, Cell, Lengths
from matrix_stores import PostgresStore

from conftest import eventually
from postgres_server import Postgres
from shoal import wire

#: What a retry or a lease held elsewhere may add to the time in which messages come back.
BACKOFF_SECONDS = 8.0


@dataclass(frozen=True)
class Fault:
    """One row of the menu. `first` makes environment variables for the first worker, in a folder that it may use.

    `backoff_seconds` is what recovery may take beyond two visibility timeouts. `missing` tells what the machine lacks.
    """

    name: str
    strike: Callable[[Cell], None]
    workers: int = 1
    first: Callable[[Path], dict[str, str]] = lambda _: {}
    backoff_seconds: Callable[[Lengths], float] = lambda _: BACKOFF_SECONDS
    missing: Callable[[], str] = lambda: ""
    stores: tuple[str, ...] = ("redis", "postgres")


# --- workers -----------------------------------------------------------------------------------------------------


def dies_at(step: str) -> Fault:
    def first(folder: Path) -> dict[str, str]:
        return {
            "SHOAL_TEST_DIES_AT": step,
            "SHOAL_TEST_DIES_THERE": "4",
            "SHOAL_TEST_DEATH_NOTE": str(folder / "death"),
        }

    return Fault(f"kill -9 {step}", has_died, workers=2, first=first)


def has_died(cell: Cell) -> None:
    assert cell.workers[0].process.wait(30) == -signal.SIGKILL
    cell.struck_at = cell.lifted_at = float((cell.folder / "death").read_text())


def kill_at_random(cell: Cell) -> None:
    time.sleep(random.uniform(0, cell.lengths.latency_seconds))
    cell.workers[0].end()


def drain(cell: Cell) -> None:
    cell.workers[0].send(signal.SIGTERM)
    assert cell.workers[0].process.wait(30) == 0


def freeze_worker(cell: Cell) -> None:
    """Longer than the lease and the visibility timeout: another worker has its jobs when it wakes."""
    cell.workers[0].send(signal.SIGSTOP)
    time.sleep(cell.lengths.visibility_seconds + cell.lengths.lease_seconds)
    cell.workers[0].send(signal.SIGCONT)


# --- Redis -------------------------------------------------------------------------------------------------------


def restart_redis(cell: Cell) -> None:
    cell.store.valkey.kill()
    time.sleep(cell.lengths.storm_seconds / 3)
    cell.store.valkey.start()


def restart_redis_empty(cell: Cell) -> None:
    """With more jobs in the queue than the worker has taken."""
    for number in range(3 * CONCURRENCY):
        cell.producer.enqueue(f"in the queue {number}")
    cell.store.valkey.kill()
    wiped_at = time.time()
    cell.store.valkey.forget()
    time.sleep(cell.lengths.storm_seconds / 3)
    cell.store.valkey.start()
    if not cell.store.recover():
        cell.wiped_at = wiped_at


def freeze_redis(cell: Cell) -> None:
    cell.store.valkey.freeze()
    time.sleep(cell.lengths.redis_frozen_seconds)
    cell.store.valkey.thaw()


def fill_redis(cell: Cell) -> None:
    """`noeviction`: every write that may grow is refused."""
    with redis.Redis.from_url(cell.store.redis_url) as client:
        client.config_set("maxmemory", "1")
        time.sleep(cell.lengths.storm_seconds)
        client.config_set("maxmemory", "0")


# --- Postgres ----------------------------------------------------------------------------------------------------


def postgres_of(cell: Cell) -> Postgres:
    assert isinstance(cell.store, PostgresStore)
    return cell.store.postgres


def restart_postgres(cell: Cell) -> None:
    """A crash: SIGQUIT ends it without a checkpoint."""
    server = postgres_of(cell)
    server.stop(signal.SIGQUIT)
    time.sleep(cell.lengths.storm_seconds / 3)
    server.start()


def freeze_postgres(cell: Cell) -> None:
    server = postgres_of(cell)
    server.send(signal.SIGSTOP)
    time.sleep(cell.lengths.redis_frozen_seconds)
    server.send(signal.SIGCONT)


def fill_disk(cell: Cell) -> None:
    """The server's own error of a full disk, for every ending and every claim."""
    server = postgres_of(cell)
    server.run(
        """
        CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON shoal.endings FOR EACH ROW EXECUTE FUNCTION full_disk();
        CREATE TRIGGER full_disk BEFORE INSERT ON shoal.jobs FOR EACH ROW EXECUTE FUNCTION full_disk()
        """
    )
    time.sleep(cell.lengths.storm_seconds)
    server.run("DROP TRIGGER full_disk ON shoal.endings; DROP TRIGGER full_disk ON shoal.jobs")


def read_only_postgres(cell: Cell) -> None:
    """As after a failover to a replica that has not been promoted yet: sessions end, new ones can only read."""
    server = postgres_of(cell)
    server.run("ALTER SYSTEM SET default_transaction_read_only = on")
    server.run("SELECT pg_reload_conf()")
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shoal'")
    time.sleep(cell.lengths.storm_seconds)
    with psycopg.connect(server.url, autocommit=True, options="-c default_transaction_read_only=off") as admin:
        admin.execute("ALTER SYSTEM SET default_transaction_read_only = off")
        admin.execute("SELECT pg_reload_conf()")


def use_up_connections(cell: Cell) -> None:
    """All sessions of ours are ended and their places taken by others."""
    server = postgres_of(cell)
    end_ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shoal'"
    taken = [psycopg.connect(server.url, autocommit=True)]
    ends_at = time.monotonic() + cell.lengths.storm_seconds
    while time.monotonic() < ends_at:
        try:
            taken.append(psycopg.connect(server.url))
        except psycopg.OperationalError:
            taken[0].execute(end_ours)
            time.sleep(0.05)
    for connection in taken:
        connection.close()


# --- messages ----------------------------------------------------------------------------------------------------


def deliver_twice(cell: Cell) -> None:
    """Each job that is under way comes a second time: half of them under another tag, half byte for byte."""
    with redis.Redis.from_url(cell.store.redis_url) as client:
        for number, job in enumerate(cell.producer.latest(10)):
            text = wire.message(job)
            client.lpush(wire.QUEUE, *([text] if number % 2 else [text, text]))


def lose_acks(cell: Cell) -> None:
    """Messages of answered jobs are in the queue again."""
    jobs = cell.producer.latest(5)
    assert not cell.await_answers([job.id for job in jobs], 30)
    with redis.Redis.from_url(cell.store.redis_url) as client:
        client.lpush(wire.QUEUE, *map(wire.message, jobs))


# --- the provider --------------------------------------------------------------------------------------------------


Seconds = Callable[[Lengths], float]


def storm(name: str, fault: str, seconds: Seconds, param_seconds: float = 2.0) -> Fault:
    """Every request that arrives is answered so."""

    def strike(cell: Cell) -> None:
        rule: dict[str, Any] = {"fault": fault, "param": param_seconds}
        cell.sandbox.scenario(latency_seconds=cell.lengths.latency_seconds, faults=[rule])
        time.sleep(seconds(cell.lengths))
        cell.sandbox.scenario(latency_seconds=cell.lengths.latency_seconds)

    return Fault(name, strike, backoff_seconds=after(seconds))


def line(name: str, mode: str, seconds: Seconds) -> Fault:
    """The connections to the provider behave so."""

    def strike(cell: Cell) -> None:
        cell.proxy.become(mode)
        time.sleep(seconds(cell.lengths))
        cell.proxy.become("pass")

    return Fault(name, strike, backoff_seconds=after(seconds))


def after(seconds: Seconds) -> Seconds:
    """The last call may wait out its deadline; pauses double, so the next is as long as all before it together."""
    return lambda lengths: BACKOFF_SECONDS + lengths.deadline_seconds + 2 * seconds(lengths)


# --- clocks --------------------------------------------------------------------------------------------------------


def step_clock(seconds: int) -> Fault:
    """The first worker's wall clock steps while it works, answers jobs so, and steps back."""

    def strike(cell: Cell) -> None:
        clock = cell.folder / "clock"
        clock.write_text(f"{seconds:+d}")
        eventually(lambda: is_off(cell), what="an answer with a wrong time")
        clock.write_text("+0")

    def is_off(cell: Cell) -> bool:
        answers = cell.store.answers(tuple(cell.producer.offered_at)[-500:])
        done_at = [json.loads(record)["result"]["finished_at"] for record in answers.values()]
        return any(abs(at - time.time() - seconds) < abs(seconds) / 2 for at in done_at)

    def first(folder: Path) -> dict[str, str]:
        (folder / "clock").write_text("+0")
        command = ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"]
        asked = subprocess.run(command, capture_output=True, text=True, check=True)
        return {
            "LD_PRELOAD": asked.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
            # Looked into once a second: at every call it costs more than the work.
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    where = "ahead" if seconds > 0 else "back"
    return Fault(f"clock 1 h {where}", strike, workers=2, first=first, missing=no_faketime)


def no_faketime() -> str:
    return "" if shutil.which("faketime") else "needs libfaketime: apt-get install faketime"


# --- the menu ------------------------------------------------------------------------------------------------------

_FAULTS = (
    *(dies_at(step) for step in STEPS),
    Fault("kill -9 at random", kill_at_random, workers=2),
    Fault("SIGTERM drain", drain, workers=2),
    Fault("frozen past its lease", freeze_worker, workers=2),
    Fault("redis restarted", restart_redis),
    Fault("redis restarted empty", restart_redis_empty),
    Fault("redis frozen", freeze_redis),
    Fault("redis full", fill_redis),
    Fault("postgres restarted", restart_postgres, stores=("postgres",)),
    Fault("postgres frozen", freeze_postgres, stores=("postgres",)),
    Fault("postgres disk full", fill_disk, stores=("postgres",)),
    Fault("postgres read-only", read_only_postgres, stores=("postgres",)),
    Fault("postgres has no connection", use_up_connections, stores=("postgres",)),
    Fault("delivered twice", deliver_twice, workers=2),
    Fault("ack lost", lose_acks),
    storm("429 storm", "upstream_429", lambda lengths: lengths.storm_seconds),
    line("provider down", "refuse", lambda lengths: lengths.storm_seconds),
    line("provider resets", "reset", lambda lengths: lengths.loss_seconds),
    line("provider silent", "hole", lambda lengths: lengths.loss_seconds),
    line("replies cut", "cut", lambda lengths: lengths.loss_seconds),
    storm("whitespace", "drip_whitespace", lambda lengths: lengths.whitespace_seconds, 30.0),
    # No job gets three answers in this time: after three it would be given up.
    storm("JSON that does not fit", "misfit_json", lambda lengths: 1.8 * lengths.latency_seconds),
    step_clock(3600),
    step_clock(-3600),
)
MENU: dict[str, Fault] = {fault.name: fault for fault in _FAULTS}
