"""Who works on the queue, and what waits in it."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shoal import wire
from shoal.control import client_app
from shoal.errors import QueueUnavailable
from shoal.fleet import Fleet
from shoal_worker.doctor.findings import Finding, fault, fine, warning

OUR_POOL = "shoal_worker.pool:TaskPool"
#: How long workers have to answer.
ANSWER_SECONDS = 1.0
#: How many of the messages that are served next are looked at, and only at the names of their tasks.
LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class Facts:
    """`pools`: by the name of a worker that consumes our queues. `versions`: what living workers told of their code."""

    pools: Mapping[str, str] = field(default_factory=dict)
    versions: frozenset[str] = frozenset()
    #: Names of tasks that wait in our queues and are not ours.
    foreign_tasks: frozenset[str] = frozenset()


async def look(queue_url: SecretStr, client: "Redis | None") -> Facts | None:
    """`client` None: the queue is no Redis, and is there. Does not raise: the answer is None where it is away."""
    if client is None:
        return Facts(await asyncio.to_thread(_pools, queue_url))
    try:
        view = await Fleet(client).look()
        waiting: Any = [await client.lrange(queue, -LOOKED_AT, -1) for queue in (wire.QUEUE, wire.BULK_QUEUE)]
    except (RedisError, OSError, QueueUnavailable):
        return None
    pools = await asyncio.to_thread(_pools, queue_url)
    names = frozenset(filter(None, (_task(message) for queue in waiting for message in queue)))
    ours = frozenset(name for name in names if name.startswith(wire.TASK_PREFIX))
    return Facts(pools, frozenset(worker.version for worker in view.workers), names - ours)


def _pools(queue_url: SecretStr) -> dict[str, str]:
    """Asked over Celery's remote control, which every Celery worker answers."""
    with client_app(queue_url) as app:
        ask = app.control.inspect
        try:
            queues = ask(timeout=ANSWER_SECONDS).active_queues() or {}
            # Who has answered is known by now, so nobody else is waited for.
            stats = (queues and ask(list(queues), timeout=ANSWER_SECONDS, limit=len(queues)).stats()) or {}
        except Exception:  # noqa: BLE001 a transport raises whatever it comes across; then nobody is known
            return {}
    return {
        name: str(stats.get(name, {}).get("pool", {}).get("implementation", "unknown"))
        for name, consumed in queues.items()
        if {queue["name"] for queue in consumed} & {wire.QUEUE, wire.BULK_QUEUE}
    }


def _task(message: bytes) -> str:
    """The name of a message's task; '' for a note, and for what is no message."""
    try:
        headers = json.loads(message)["headers"]
        return str(headers["task"])[:100]
    except (ValueError, LookupError, TypeError):
        return ""


def findings(facts: Facts | None) -> Iterator[Finding]:
    if facts is None:
        return
    ours = {name for name, pool in facts.pools.items() if pool == OUR_POOL}
    for name in sorted(facts.pools.keys() - ours):
        yield fault(
            "workers-foreign",
            f"{name} takes messages of our queue and is no Shoal worker ({facts.pools[name]})",
            "it throws jobs away that it does not know, and what it holds when it is killed: 386 of 20,000 in our test",
            f"stop it, or give it a queue of its own: celery worker -Q other; it was found as {name}",
        )
    if ours:
        yield fine("workers", f"workers that answer: {', '.join(sorted(ours))}")
    else:
        yield warning("workers", "no worker answers", "jobs wait", "start one: `shoal worker`, or `shoal up`")
    if len(facts.versions) > 1:
        told = ", ".join(sorted(version or "older" for version in facts.versions))
        why = "while an upgrade lasts that is meant; an older one drops what it does not know, such as a job's history"
        yield warning("workers-versions", f"workers of several versions work together: {told}", why, "upgrade the rest")
    if facts.foreign_tasks:
        told = ", ".join(sorted(facts.foreign_tasks)[:5])
        why = "our workers make dead letters of them"
        fix = f"have that application use another queue than {wire.QUEUE}, or another Redis database"
        yield fault("queue-foreign", f"tasks of another application wait in our queue: {told}", why, fix)
