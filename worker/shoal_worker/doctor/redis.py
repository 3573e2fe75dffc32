"""A Redis or Valkey that holds the queue or the results.

What decides about lost jobs is read from INFO, which managed servers show too; CONFIG and CLIENT LIST may be hidden.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from shoal.redis_url import in_words
from shoal_worker.doctor.addresses import is_loopback
from shoal_worker.doctor.clock import Clock
from shoal_worker.doctor.findings import Finding, fault, fine, warning
from shoal_worker.doctor.places import Place

#: BLMOVE came with it.
LEAST_VERSION = (6, 2)
#: One worker process with 600 jobs at once had 14 open, and a producer 4; new ones come where others stall.
CONNECTIONS_PER_WORKER = 20
CONNECTIONS_PER_PRODUCER = 10
#: A server that closes connections sooner than this closes pools that wait between two bursts.
LEAST_IDLE_SECONDS = 60
_SETTINGS = ("appendfsync", "timeout", "bind", "min-replicas-to-write")


@dataclass(frozen=True, slots=True)
class Facts:
    """`info` and `settings` are the server's own words. `settings` None: it does not show them."""

    info: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] | None = None
    clock: Clock | None = None
    #: Why it could not be asked; then nothing else is known.
    away: str = ""


async def look(client: "Redis") -> Facts:
    """All that is asked. Does not raise for a server that is away or refuses."""
    try:
        info = await _shown(client.info())
        before = time.time()
        seconds, micros = await client.time()
        clock = Clock(before, time.time(), seconds + micros / 1e6)
        # Servers before 7 take one pattern only.
        settings = await _shown(client.config_get("*"))
    except (RedisError, OSError) as error:
        return Facts(away=in_words(error))
    known = None if settings is None else {name: settings[name] for name in _SETTINGS if name in settings}
    return Facts(info or {}, known, clock)


async def info_of(client: "Redis") -> Facts:
    """What decides whether a worker may start. Raises redis-py's errors for a server that is away."""
    return Facts(await _shown(client.info()) or {})


async def _shown(question: Any) -> Any:
    """What a server answers, None where it hides the answer from us."""
    try:
        return await question
    except RedisConnectionError:
        raise
    except ResponseError:
        return None


def findings(facts: Facts, place: Place, workers: int) -> Iterator[Finding]:
    """What a server's facts mean. `workers`: how many worker processes use it."""
    if facts.away:
        yield away(facts.away, place)
        return
    yield from startup_findings(facts, place, is_trusted=False)
    if facts.info:
        yield from _role(facts.info, place)
        yield from _persistence(facts, place)
        yield from _memory(facts.info, place)
        yield from _connections(facts, place, workers)
        yield from _replication(facts, place)
    yield from _access(facts, place)
    if facts.clock:
        yield from facts.clock.findings(place.name)


def away(reason: str, place: Place) -> Finding:
    why = "nothing is queued or answered"
    if "certificate" in reason:
        fix = f"name the authority that signed it in {place.setting}: rediss://…?ssl_ca_certs=/path/ca.pem"
    else:
        fix = f"start it, or put its right address, user and password into {place.setting}"
    return fault("redis-away", f"{place.name} cannot be asked: {reason}", why, fix)


def startup_findings(facts: Facts, place: Place, *, is_trusted: bool) -> Iterator[Finding]:
    """What loses jobs without a word. A worker starts only where none of these is a fault.

    `is_trusted`: somebody says that a server that hides what it does is set right.
    """
    info = facts.info
    if not info:
        say = warning if is_trusted else fault
        yield say(
            "redis-hidden",
            f"{place.name} does not say whether it evicts: INFO is refused",
            "a server that evicts throws waiting jobs and leases away",
            "allow this user +info, or, where the service has no such right and is known to be set to noeviction, set "
            "SHOAL_REDIS_TRUSTED=true",
        )
        return
    yield _eviction(info, place)
    version = str(info.get("redis_version", "0"))
    if _numbers(version) < LEAST_VERSION:
        why = "workers wait with BLMOVE, which it does not know, so that no message is only in a worker's memory"
        yield fault(
            "redis-version", f"{place.name} is version {version}", why, "install Redis 6.2 or Valkey 7.2, or newer"
        )
    else:
        yield fine("redis-version", f"{place.name} is version {info.get('valkey_version') or version}")


def _eviction(info: Mapping[str, Any], place: Place) -> Finding:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return fine("redis-eviction", f"{place.name} does not evict")
    return fault(
        "redis-eviction",
        f"{place.name} evicts: maxmemory-policy is {policy}",
        "when it is full it throws waiting jobs, leases and answers away, and nobody hears of it",
        "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration",
    )


def _role(info: Mapping[str, Any], place: Place) -> Iterator[Finding]:
    if int(info.get("cluster_enabled", 0)):
        why = "scripts move a message between keys that a cluster keeps on different nodes"
        yield fault(
            "redis-cluster", f"{place.name} is a cluster", why, "use a single primary, with replicas if need be"
        )
    if info.get("role") == "slave":
        why = "nothing can be queued there"
        yield fault(
            "redis-replica", f"{place.name} is a read-only replica", why, f"name its primary in {place.setting}"
        )


def _persistence(facts: Facts, place: Place) -> Iterator[Finding]:
    info, settings = facts.info, facts.settings or {}
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        why = "it refuses writes until it can write again, and a restart loses what is not on disk"
        yield fault("redis-disk", f"{place.name} could not write its file", why, "see its log; free its disk")
    if not int(info.get("aof_enabled", 0)):
        is_kept = place.is_recoverable or int(info.get("connected_slaves", 0)) > 0
        yield (warning if is_kept else fault)(
            "redis-persistence",
            f"{place.name} writes no append-only file",
            "a restart forgets every job since its last snapshot; in our fault matrix a Redis that came back empty had "
            "lost 23 of 120 jobs" + ("; `shoal recover` queues them again" if place.is_recoverable else ""),
            "redis-cli CONFIG SET appendonly yes, and the same in its configuration",
        )
    elif settings.get("appendfsync") == "no":
        why = "a crash of the machine loses what the kernel had not written, half a minute of it"
        fix = "redis-cli CONFIG SET appendfsync everysec, and the same in its configuration"
        yield warning("redis-persistence", f"{place.name} leaves writing to the kernel: appendfsync is no", why, fix)
    else:
        how_often = settings.get("appendfsync", "not shown")
        yield fine("redis-persistence", f"{place.name} keeps an append-only file (appendfsync: {how_often})")


def _memory(info: Mapping[str, Any], place: Place) -> Iterator[Finding]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    machine = int(info.get("total_system_memory", 0))
    room = most or machine // 2
    if not room:
        return
    what = f"{place.name} uses {_mib(used)} of {_mib(room)} MiB" + ("" if most else " (half of its machine's memory)")
    why = "full, it takes no job; workers keep their answers and wait"
    fix = "give it more memory (redis-cli CONFIG SET maxmemory …), or keep results shorter: SHOAL_RESULT_TTL_SECONDS"
    if used > 0.95 * room:
        yield fault("redis-memory", what, why, fix)
    elif used > 0.8 * room:
        yield warning("redis-memory", what, why, fix)
    else:
        yield fine("redis-memory", what)


def _connections(facts: Facts, place: Place, workers: int) -> Iterator[Finding]:
    most, needed = int(facts.info.get("maxclients", 0)), workers * CONNECTIONS_PER_WORKER + CONNECTIONS_PER_PRODUCER
    if most:
        what = f"{place.name} takes {most} connections; up to {needed} are opened "
        what += f"(worker processes: {workers}, producers: 1)"
        if needed > most:
            why = "workers that are refused a connection cannot acknowledge or store"
            fix = f"redis-cli CONFIG SET maxclients {max(10_000, 2 * needed)}, and the same in its configuration"
            yield fault("redis-connections", what, why, fix)
        else:
            yield fine("redis-connections", what)
    idle_seconds = int((facts.settings or {}).get("timeout", 0))
    if 0 < idle_seconds < LEAST_IDLE_SECONDS:
        why = "each pause in the work ends in connections that are made anew"
        fix = "redis-cli CONFIG SET timeout 0"
        yield warning("redis-timeout", f"{place.name} closes connections idle for {idle_seconds} s", why, fix)


def _replication(facts: Facts, place: Place) -> Iterator[Finding]:
    replicas = int(facts.info.get("connected_slaves", 0))
    if not place.has_replicas:
        return
    if not replicas:
        why = "if it is lost, all jobs in it are"
        yield warning("redis-replicas", f"{place.name} has no replica now", why, "start one")
    elif replicas > 1 and (facts.settings or {}).get("min-replicas-to-write") == "0":
        why = "a primary that is cut off from its sentinels takes jobs that it forgets later"
        fix = "redis-cli CONFIG SET min-replicas-to-write 1, and the same in its configuration"
        yield warning("redis-replicas", f"{place.name} takes writes while no replica has them", why, fix)
    else:
        yield fine("redis-replicas", f"{place.name} has {replicas} replicas")


def _access(facts: Facts, place: Place) -> Iterator[Finding]:
    if place.has_tls and not place.verifies:
        fix = f"take ssl_cert_reqs and ssl_check_hostname out of {place.setting}; ssl_ca_certs names your own authority"
        why = "anybody between can read and write all of it"
        yield warning("redis-tls", f"the certificate of {place.name} is not verified", why, fix)
    if not is_far(facts, place):
        return
    if not place.has_password:
        why = "whoever reaches it runs jobs at your cost, reads texts and deletes answers"
        fix = "give it users (deploy/redis/users.acl) and put one into the URL, or bind it to 127.0.0.1"
        what = f"{place.name} does not listen on loopback only, and takes anybody without a password"
        yield warning("redis-password", what, why, fix)
    if not place.has_tls and not is_loopback(place.host):
        why = "texts, answers and the password cross the network in the clear"
        yield warning("redis-tls", f"{place.name} is reached without TLS", why, f"use rediss:// in {place.setting}")


def is_far(facts: Facts, place: Place) -> bool:
    """Whether others than this machine can reach it."""
    if not is_loopback(place.host):
        return True
    listens = (facts.settings or {}).get("bind", "127.0.0.1").split()
    return not all(is_loopback(address.lstrip("-")) for address in listens)


def _mib(count: int) -> int:
    return round(count / 1_048_576)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
