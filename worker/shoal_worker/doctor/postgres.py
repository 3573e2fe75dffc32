"""The Postgres that holds jobs and results."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from shoal.postgres import in_words
from shoal_worker.doctor.addresses import is_loopback
from shoal_worker.doctor.clock import Clock
from shoal_worker.doctor.findings import Finding, fault, fine, warning
from shoal_worker.stores import migrations

#: A worker process: the store's pool and the outbox's. A producer's pool, and its connection that listens.
CONNECTIONS_PER_WORKER = 16
CONNECTIONS_PER_PRODUCER = 9
#: A replica that is this far behind is no help when the primary is lost.
MOST_LAG_SECONDS = 10.0
LEAST_IDLE_MS = 60_000
CONNECT_SECONDS = 10

_SETTINGS = (
    *("fsync", "full_page_writes", "synchronous_commit", "max_connections", "superuser_reserved_connections"),
    *("default_transaction_read_only", "idle_session_timeout"),
)
_ASKED = b"""
    SELECT extract(epoch FROM clock_timestamp())::float8, pg_is_in_recovery(),
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
           (SELECT max(extract(epoch FROM replay_lag))::float8 FROM pg_stat_replication),
           (SELECT count(*) FROM pg_stat_replication),
           coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """`settings` are the server's own words. `lag_seconds` None: no replica, or none that may be seen."""

    settings: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    clock: Clock | None = None
    is_replica: bool = False
    connections: int = 0
    lag_seconds: float | None = None
    replicas: int = 0
    has_tls: bool = False
    #: As the URL has it; several are separated by commas.
    host: str = ""
    away: str = ""


def look(url: SecretStr) -> Facts:
    """Does not raise for a server that is away or refuses. Blocks."""
    try:
        host = str(conninfo_to_dict(url.get_secret_value()).get("host", ""))
    except psycopg.ProgrammingError:
        return Facts(away="SHOAL_RESULT_URL is not the URL of a Postgres")
    try:
        with psycopg.connect(url.get_secret_value(), connect_timeout=CONNECT_SECONDS, autocommit=True) as connection:
            rows = connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_SETTINGS),))
            settings = {str(name): str(value) for name, value in rows}
            before = time.time()
            [(theirs, is_replica, connections, lag, replicas, tls)] = connection.execute(_ASKED).fetchall()
            clock = Clock(before, time.time(), theirs)
            missing = migrations.missing(connection)
    except psycopg.Error as error:
        return Facts(away=in_words(error))
    return Facts(settings, missing, clock, is_replica, connections, lag, replicas, tls, host)


def findings(facts: Facts, workers: int) -> Iterator[Finding]:
    """What a server's facts mean. `workers`: how many worker processes use it."""
    if facts.away:
        why = "no job is accepted, no answer stored; workers wait with what they have"
        fix = "start it, or put its right address into SHOAL_RESULT_URL"
        yield fault("postgres-away", f"Postgres cannot be asked: {facts.away}", why, fix)
        return
    yield from _tables(facts)
    yield from _writes(facts)
    yield from _durability(facts.settings)
    yield from _connections(facts, workers)
    if facts.replicas:
        yield from _replication(facts)
    if facts.clock:
        yield from facts.clock.findings("Postgres")
    if not facts.has_tls and not all(map(is_loopback, facts.host.split(","))):
        why = "texts, answers and the password cross the network in the clear"
        fix = "add ?sslmode=verify-full&sslrootcert=/path/ca.pem to SHOAL_RESULT_URL"
        yield warning("postgres-tls", "Postgres is reached without TLS", why, fix)


def _tables(facts: Facts) -> Iterator[Finding]:
    if facts.missing:
        why = "workers do not start on tables that are older than they are"
        yield fault("postgres-tables", migrations.lacks(facts.missing), why, "run `shoal migrate`")
    else:
        yield fine("postgres-tables", "Postgres has all tables of this version")


def _writes(facts: Facts) -> Iterator[Finding]:
    why = "no job is accepted, no answer stored; workers wait with what they have"
    if facts.is_replica:
        fix = "name the primary in SHOAL_RESULT_URL, or all hosts and target_session_attrs=read-write"
        yield fault("postgres-read-only", "this Postgres is a standby", why, fix)
    elif facts.settings.get("default_transaction_read_only") == "on":
        fix = "ALTER SYSTEM RESET default_transaction_read_only (ALTER DATABASE …, ALTER ROLE …, wherever it was set)"
        yield fault("postgres-read-only", "Postgres takes no writes: default_transaction_read_only is on", why, fix)


def _durability(settings: Mapping[str, str]) -> Iterator[Finding]:
    unsafe = [name for name in ("fsync", "full_page_writes") if settings.get(name) == "off"]
    if unsafe:
        why = "a crash of the machine can destroy the whole database"
        fix = "; ".join(f"ALTER SYSTEM SET {name} = on" for name in unsafe)
        yield fault("postgres-durability", f"Postgres runs with {' and '.join(unsafe)} off", why, fix)
    elif settings.get("synchronous_commit") == "off":
        why = "a crash forgets the last moments' jobs, although their producers were told that they are accepted"
        fix = "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()"
        yield warning("postgres-durability", "Postgres confirms before it writes: synchronous_commit is off", why, fix)
    else:
        yield fine("postgres-durability", "Postgres writes before it confirms")


def _connections(facts: Facts, workers: int) -> Iterator[Finding]:
    most = int(facts.settings.get("max_connections", 0))
    free_for_us = most - int(facts.settings.get("superuser_reserved_connections", 0))
    needed = workers * CONNECTIONS_PER_WORKER + CONNECTIONS_PER_PRODUCER
    what = f"Postgres takes {free_for_us} connections, {facts.connections} are open; up to {needed} are opened "
    what += f"(worker processes: {workers}, producers: 1)"
    if needed > free_for_us:
        why = "who is refused a connection waits, and jobs with it"
        fix = f"ALTER SYSTEM SET max_connections = {max(100, 2 * needed)} and restart it, or run fewer processes"
        yield fault("postgres-connections", what, why, fix)
    else:
        yield fine("postgres-connections", what)
    if 0 < int(facts.settings.get("idle_session_timeout", 0)) < LEAST_IDLE_MS:
        why = "each pause in the work ends in connections that are made anew"
        fix = "ALTER ROLE … SET idle_session_timeout = 0"
        yield warning("postgres-timeout", "Postgres soon closes idle connections: idle_session_timeout", why, fix)


def _replication(facts: Facts) -> Iterator[Finding]:
    if (facts.lag_seconds or 0.0) > MOST_LAG_SECONDS:
        what = f"a replica of Postgres is {facts.lag_seconds:.0f} s behind"
        why = "what it has not got is lost with the primary, and calls are paid again"
        yield warning("postgres-replicas", what, why, "see pg_stat_replication; give it more disk or network")
    else:
        yield fine("postgres-replicas", f"Postgres has {facts.replicas} replicas that keep up")
