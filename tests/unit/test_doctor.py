"""What the doctor makes of facts. That it reads them right is shown on real servers (`integration/test_doctor.py`)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_worker.doctor import beat, fleet, flower, machine, postgres, provider, rabbit, redis, report
from shoal_worker.doctor.addresses import is_loopback
from shoal_worker.doctor.clock import MOST_SECONDS, NOTICED_SECONDS, Clock
from shoal_worker.doctor.findings import Finding, Grade, fault, fine, warning
from shoal_worker.doctor.places import Place, redis_places
from shoal_worker.lookups import KeyStatus, ModelCard, read_key, read_models
from shoal_worker.replies import Prices
from shoal_worker.settings import WorkerSettings

MIB = 1_048_576
INFO: dict[str, Any] = {
    "redis_version": "7.2.4",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "used_memory": 10 * MIB,
    "maxmemory": 100 * MIB,
    "maxclients": 10_000,
}
SETTINGS = {"appendfsync": "everysec", "timeout": "0", "bind": "127.0.0.1 -::1", "min-replicas-to-write": "0"}
PLACE = Place("the Redis", "SHOAL_REDIS_URL", "127.0.0.1", has_tls=False, has_password=False)
DAY = 86_400.0


def bad(found: Any) -> dict[str, str]:
    """Grades by check, of all that is not fine."""
    return {one.check: str(one.grade) for one in found if one.grade != Grade.FINE}


def of_redis(
    place: Place = PLACE, settings: dict[str, str] | None = None, workers: int = 1, **info: Any
) -> dict[str, str]:
    return bad(redis.findings(redis.Facts(INFO | info, SETTINGS | (settings or {})), place, workers))


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "volatile-lru", "allkeys-random"])
def test_a_redis_that_evicts_must_be_mended(policy: str) -> None:
    assert of_redis() == {}
    assert of_redis(maxmemory_policy=policy) == {"redis-eviction": "fault"}


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({"redis_version": "6.0.16"}, {"redis-version": "fault"}),
        ({"redis_version": "6.2.0"}, {}),
        ({"cluster_enabled": 1}, {"redis-cluster": "fault"}),
        ({"role": "slave"}, {"redis-replica": "fault"}),
        ({"aof_enabled": 0}, {"redis-persistence": "fault"}),
        ({"aof_enabled": 0, "connected_slaves": 1}, {"redis-persistence": "warning"}),
        ({"aof_last_write_status": "err"}, {"redis-disk": "fault"}),
        ({"rdb_last_bgsave_status": "err"}, {"redis-disk": "fault"}),
        ({"used_memory": 85 * MIB}, {"redis-memory": "warning"}),
        ({"used_memory": 96 * MIB}, {"redis-memory": "fault"}),
        ({"maxmemory": 0, "total_system_memory": 15 * MIB}, {"redis-memory": "fault"}),
        ({"maxclients": 29}, {"redis-connections": "fault"}),
        ({"maxclients": 30}, {}),
    ],
)
def test_what_a_redis_tells_of_itself(info: dict[str, Any], found: dict[str, str]) -> None:
    assert of_redis(**info) == found


def test_more_workers_need_more_connections() -> None:
    assert of_redis(maxclients=200, workers=9) == {}
    assert of_redis(maxclients=200, workers=10) == {"redis-connections": "fault"}


def test_a_redis_whose_jobs_are_in_postgres_too_may_forget_them() -> None:
    kept = Place("the queue's Redis", "SHOAL_REDIS_URL", "127.0.0.1", False, False, is_recoverable=True)
    assert of_redis(kept, aof_enabled=0) == {"redis-persistence": "warning"}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"appendfsync": "no"}, {"redis-persistence": "warning"}),
        ({"timeout": "5"}, {"redis-timeout": "warning"}),
        ({"bind": "* -::*"}, {"redis-password": "warning"}),
    ],
)
def test_what_a_redis_is_set_to(settings: dict[str, str], found: dict[str, str]) -> None:
    assert of_redis(settings=settings) == found


def test_a_redis_elsewhere_wants_a_password_and_tls() -> None:
    far = Place("the Redis", "SHOAL_REDIS_URL", "redis.example", has_tls=False, has_password=False)
    assert of_redis(far) == {"redis-password": "warning", "redis-tls": "warning"}
    safe = Place("the Redis", "SHOAL_REDIS_URL", "redis.example", has_tls=True, has_password=True)
    assert of_redis(safe) == {}
    blind = Place("the Redis", "SHOAL_REDIS_URL", "redis.example", True, True, verifies=False)
    assert of_redis(blind) == {"redis-tls": "warning"}


def test_replicas_are_asked_for_where_a_sentinel_is() -> None:
    watched = Place("the Redis", "SHOAL_REDIS_URL", "127.0.0.1", False, False, has_replicas=True)
    assert of_redis(watched) == {"redis-replicas": "warning"}
    assert of_redis(watched, connected_slaves=1) == {}
    assert of_redis(watched, connected_slaves=2) == {"redis-replicas": "warning"}
    assert of_redis(watched, {"min-replicas-to-write": "1"}, connected_slaves=2) == {}


def test_a_redis_that_hides_everything_is_trusted_on_somebodys_word_only() -> None:
    hidden = redis.Facts()
    assert bad(redis.startup_findings(hidden, PLACE, is_trusted=False)) == {"redis-hidden": "fault"}
    assert bad(redis.startup_findings(hidden, PLACE, is_trusted=True)) == {"redis-hidden": "warning"}
    evicting = redis.Facts(INFO | {"maxmemory_policy": "allkeys-lru"})
    assert bad(redis.startup_findings(evicting, PLACE, is_trusted=True)) == {"redis-eviction": "fault"}


GOOD = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "max_connections": "100"}


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (postgres.Facts(GOOD), {}),
        (postgres.Facts(away="gone"), {"postgres-away": "fault"}),
        (postgres.Facts(GOOD, missing=("0001_jobs",)), {"postgres-tables": "fault"}),
        (postgres.Facts(GOOD, is_replica=True), {"postgres-read-only": "fault"}),
        (postgres.Facts(GOOD | {"default_transaction_read_only": "on"}), {"postgres-read-only": "fault"}),
        (postgres.Facts(GOOD | {"fsync": "off"}), {"postgres-durability": "fault"}),
        (postgres.Facts(GOOD | {"full_page_writes": "off"}), {"postgres-durability": "fault"}),
        (postgres.Facts(GOOD | {"synchronous_commit": "off"}), {"postgres-durability": "warning"}),
        (postgres.Facts(GOOD | {"max_connections": "24"}), {"postgres-connections": "fault"}),
        (postgres.Facts(GOOD | {"idle_session_timeout": "5000"}), {"postgres-timeout": "warning"}),
        (postgres.Facts(GOOD, replicas=1, lag_seconds=30.0), {"postgres-replicas": "warning"}),
        (postgres.Facts(GOOD, replicas=1, lag_seconds=0.1), {}),
    ],
)
def test_what_a_postgres_tells_of_itself(facts: postgres.Facts, found: dict[str, str]) -> None:
    assert bad(postgres.findings(facts, workers=1)) == found


def test_a_postgres_elsewhere_wants_tls() -> None:
    assert bad(postgres.findings(postgres.Facts(GOOD, host="localhost,db.example"), 1)) == {"postgres-tls": "warning"}
    assert bad(postgres.findings(postgres.Facts(GOOD, host="db.example", has_tls=True), 1)) == {}


ASKED = provider.Asked("openai/gpt-5.4-nano", "max_completion_tokens", Prices(), is_openrouter=True)
ALL = frozenset({"response_format", "structured_outputs", "max_completion_tokens", "max_tokens", "reasoning"})


@pytest.mark.parametrize(
    ("key", "card", "found"),
    [
        (KeyStatus(True), ModelCard(ALL, Prices()), {}),
        (KeyStatus(True), ModelCard(), {}),
        (KeyStatus(False), None, {"provider-key": "fault"}),
        (KeyStatus(True), None, {"provider-model": "fault"}),
        (KeyStatus(True, 0.0), ModelCard(), {"provider-credit": "fault"}),
        (KeyStatus(True, 0.5), ModelCard(), {"provider-credit": "warning"}),
        (KeyStatus(True, 5.0), ModelCard(), {}),
        (KeyStatus(True, is_free_tier=True), ModelCard(), {"provider-credit": "warning"}),
        (KeyStatus(True, expires_at=3 * DAY), ModelCard(), {"provider-key": "warning"}),
        (KeyStatus(True), ModelCard(expires_at=3 * DAY), {"provider-model": "warning"}),
        (KeyStatus(True), ModelCard(ALL - {"response_format"}), {"provider-parameters": "fault"}),
        (KeyStatus(True), ModelCard(ALL - {"structured_outputs"}), {"provider-parameters": "warning"}),
        (KeyStatus(True), ModelCard(ALL - {"max_completion_tokens"}), {"provider-parameters": "warning"}),
        (KeyStatus(True), ModelCard(ALL - {"reasoning"}), {"provider-parameters": "warning"}),
        (KeyStatus(True), ModelCard(ALL, Prices(1.0, 0.1, 5.0)), {"provider-prices": "warning"}),
    ],
)
def test_what_a_provider_tells_of_key_and_model(key: KeyStatus, card: ModelCard | None, found: dict[str, str]) -> None:
    assert bad(provider.findings(provider.Facts(key, card), ASKED)) == found


def test_a_key_may_spend_the_least_of_what_its_limit_and_its_budget_leave() -> None:
    card = {"limit_remaining": 3.5, "effective_budget": {"remaining_usd": "1.25"}, "expires_at": "2026-03-01T00:00:00Z"}
    assert read_key(card) == KeyStatus(True, 1.25, expires_at=1_772_323_200.0)
    assert read_key({"limit_remaining": None, "effective_budget": None}) == KeyStatus(True)


def test_a_model_is_found_by_either_of_its_names() -> None:
    pricing = {"prompt": "0.0000002", "completion": "0.00000125", "input_cache_read": "0.00000002"}
    told = [{"id": "a/b", "canonical_slug": "a/b-2026", "pricing": pricing, "supported_parameters": ["seed"]}, 7, {}]
    card = ModelCard(frozenset({"seed"}), Prices(0.2, 0.02, 1.25))
    assert read_models(told, "a/b") == read_models(told, "a/b-2026") == card
    assert read_models(told, "b") is None
    assert read_models([{"id": "local"}], "local") == ModelCard()
    assert read_models("nonsense", "a/b") is None


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (fleet.Facts({"a@b": fleet.OUR_POOL}, frozenset({"1"})), {}),
        (fleet.Facts(), {"workers": "warning"}),
        (fleet.Facts({"a@b": fleet.OUR_POOL}, frozenset({"1", ""})), {"workers-versions": "warning"}),
        (
            fleet.Facts({"a@b": fleet.OUR_POOL, "x": "celery.concurrency.prefork:TaskPool"}),
            {"workers-foreign": "fault"},
        ),
        (fleet.Facts({"a@b": fleet.OUR_POOL}, foreign_tasks=frozenset({"mail.send"})), {"queue-foreign": "fault"}),
    ],
)
def test_who_works_on_the_queue(facts: fleet.Facts, found: dict[str, str]) -> None:
    assert bad(fleet.findings(facts)) == found


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (flower.Facts(), {}),
        (flower.Facts(True, shows_pages=True), {}),
        (flower.Facts(True, shows_pages=True, reached_at="http://10.0.0.1:5555"), {"flower-open": "fault"}),
        (flower.Facts(True, reached_at="http://10.0.0.1:5555"), {}),
        (flower.Facts(True, takes_commands=True), {"flower-api": "fault"}),
        (flower.Facts(has_open_variable=True), {"flower-api": "fault"}),
    ],
)
def test_what_is_open_at_flower(facts: flower.Facts, found: dict[str, str]) -> None:
    assert bad(flower.findings(facts, "http://127.0.0.1:5555")) == found


def test_a_job_may_not_last_as_long_as_rabbitmq_waits() -> None:
    assert bad(rabbit.findings(rabbit.Facts("4.0"), 300)) == {}
    assert bad(rabbit.findings(rabbit.Facts("4.0"), 1_500)) == {"rabbitmq-timeout": "warning"}
    assert bad(rabbit.findings(rabbit.Facts("4.0", is_other_kind=True), 300)) == {"rabbitmq-queue": "fault"}
    assert bad(rabbit.findings(rabbit.Facts(away="gone"), 300)) == {"rabbitmq-away": "fault"}


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (beat.Facts(), {}),
        (beat.Facts(entries=3), {"beat": "warning"}),
        (beat.Facts(entries=3, leader="1@here"), {}),
        (beat.Facts(leader="1@elsewhere"), {}),
        (beat.Facts(faults="schedule.toml: the schedule is wrong"), {"schedule": "fault"}),
    ],
)
def test_a_schedule_needs_a_beat(facts: beat.Facts, found: dict[str, str]) -> None:
    assert bad(beat.findings(facts)) == found


def test_settings_against_this_machine() -> None:
    settings = WorkerSettings.load(concurrency=300)
    assert bad(machine.findings(machine.Facts(1_024), settings, queue_is_far=False)) == {}
    assert bad(machine.findings(machine.Facts(256), settings, queue_is_far=False)) == {"files": "fault"}
    assert bad(machine.findings(machine.Facts(1_024), settings, queue_is_far=True)) == {"signing": "warning"}
    signed = WorkerSettings.load(signing_keys="k" * 32)
    assert bad(machine.findings(machine.Facts(1_024), signed, queue_is_far=True)) == {}


@given(st.floats(0, 2e9), st.floats(0, 100), st.floats(-1e6, 1e6))
def test_a_clock_is_never_found_more_wrong_than_it_is(before: float, took: float, ahead: float) -> None:
    # Somewhere between asking and hearing the server read its own clock, from which ours is `ahead` seconds away.
    for moment in (before, before + took / 2, before + took):
        found = Clock(before, before + took, moment - ahead).ahead_seconds
        assert abs(found) <= abs(ahead) + 1e-3
        assert abs(ahead) - abs(found) <= took + 1e-3


def test_a_wrong_clock_is_told_by_how_wrong_it_is() -> None:
    assert bad(Clock(100.0, 100.1, 100.05).findings("the Redis")) == {}
    assert bad(Clock(100.0, 100.1, 100.2 + NOTICED_SECONDS).findings("the Redis")) == {"clock": "warning"}
    assert bad(Clock(100.0, 100.1, 99.0 - MOST_SECONDS).findings("the Redis")) == {"clock": "fault"}
    [ahead] = Clock(3700.0, 3700.1, 100.0).findings("the Redis")
    assert ahead.what == "this clock is 3600 s ahead of that of the Redis"


def test_only_what_must_be_mended_fails_unless_warnings_are_to_fail_too() -> None:
    some: list[Finding] = [fine("a", "good"), warning("b", "odd", "it may be meant", "look")]
    assert (report.status(some, strict=False), report.status(some, strict=True)) == (0, 1)
    assert report.status([*some, fault("c", "bad", "it breaks", "mend it")], strict=False) == 1
    assert report.status([], strict=True) == 0
    assert report.document(some, strict=False) == {
        "ok": True,
        "findings": [
            {"check": "a", "grade": "fine", "what": "good"},
            {"check": "b", "grade": "warning", "what": "odd", "why": "it may be meant", "fix": "look"},
        ],
    }


def test_each_redis_is_looked_at_once_and_by_its_own_name() -> None:
    def named(**urls: str) -> list[tuple[str, str, str]]:
        return [(one.name, one.setting, one.host) for _, one in redis_places(WorkerSettings.load(**urls))]

    assert named(redis_url="redis://ann:pw@one") == [("the Redis", "SHOAL_REDIS_URL", "one")]
    assert named(redis_url="redis://one", queue_url="amqp://two") == [("the results' Redis", "SHOAL_REDIS_URL", "one")]
    assert named(redis_url="redis://one", result_url="postgresql://two/x") == [
        ("the queue's Redis", "SHOAL_REDIS_URL", "one")
    ]
    assert named(redis_url="redis://one", queue_url="sentinel://localhost,two/fish", result_url="redis://three") == [
        ("the queue's Redis", "SHOAL_QUEUE_URL", "two"),
        ("the results' Redis", "SHOAL_RESULT_URL", "three"),
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "", "/var/run"])
def test_addresses_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "*", "::*", "0.0.0.0", "redis.example", "::"])
def test_addresses_of_others(host: str) -> None:
    assert not is_loopback(host)
