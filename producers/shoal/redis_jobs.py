"""Jobs, endings and dead letters in a Redis or Valkey.

Where it is the queue's own, a claim and its message are one script. Else the message goes into the outbox with the
claim, and from there to the queue.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shoal import wire
from shoal.costs import RedisCosts, day_of
from shoal.deadletters import fingerprint
from shoal.errors import QueueUnavailable, UnknownJob
from shoal.jobs import DeadLetter, JobMessage, Status
from shoal.ports import Claimed, Group, Pause
from shoal.publisher import Publisher
from shoal.redis_url import in_words
from shoal.scripts import Scripts
from shoal.signing import Signer

IDS_PER_LOOK = 200
HEARD_SECONDS = 2.0
#: Longer than it takes to publish a message from the outbox: what is still there after it, workers publish.
OUTBOX_SECONDS = 5
DUE_AT_ONCE = 200
DUE_AGAIN_SECONDS = 10
_LETTERS_PER_PAGE = 100


_SCRIPTS = {
    "enqueue": wire.script("shoal", "queue", "dead", "claim", "enqueue"),
    "enqueue_pack": wire.script("shoal", "queue", "dead", "claim", "enqueue_pack"),
    "cancel": wire.script("shoal", "aliases", "cancel"),
    **{name: wire.script("shoal", name) for name in ("due", "published")},
}


@contextmanager
def _unavailable(what: str) -> Iterator[None]:
    """The server's errors as ours."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"{what}: {in_words(error)}") from error


class RedisJobs:
    """`ports.JobBook` on one Redis."""

    def __init__(self, client: "Redis", signer: Signer | None = None, publisher: Publisher | None = None) -> None:
        self._client = client
        self._signer = signer
        self._publisher = publisher
        self._scripts = Scripts(client, _SCRIPTS)
        self.dead = RedisDeadLetters(client)
        self.costs = RedisCosts(client)

    async def enqueue(self, message: JobMessage, kept_seconds: int) -> Claimed:
        text = wire.message(message, self._signer)
        became = await self._claim(message, text, kept_seconds)
        if became == Claimed.QUEUED and self._publisher:
            await self._publish_at_once(self._publisher, [text], [text])
        return became

    async def _claim(self, message: JobMessage, text: str, kept_seconds: int) -> Claimed:
        outbox_seconds = OUTBOX_SECONDS if self._publisher else ""
        place = (wire.queue_of(message), message.tenant)
        with _unavailable("the queue did not take the job"):
            became = await self._scripts.call(
                "enqueue",
                [*_books(), wire.job_record(message.id), wire.result_record(message.id), wire.OUTBOX],
                [message.id, message.fingerprint, kept_seconds, text, outbox_seconds, *place],
            )
        return Claimed(became.decode())

    async def enqueue_pack(self, messages: Sequence[JobMessage], kept_seconds: int) -> list[Claimed]:
        if self._publisher:
            return await self._enqueue_through_outbox(self._publisher, messages, kept_seconds)
        jobs = [wire.packed(message, self._signer) for message in messages]
        frame = wire.pack_frame(messages[0], sum(map(len, jobs)))
        keys, values = _books(), [wire.queue_of(messages[0]), messages[0].tenant, frame]
        for message, job in zip(messages, jobs, strict=True):
            keys += (wire.job_record(message.id), wire.result_record(message.id))
            values += (message.id, message.fingerprint, str(kept_seconds), job)
        with _unavailable("the queue did not take the jobs"):
            became = await self._scripts.call("enqueue_pack", keys, values)
        return [Claimed(word.decode()) for word in became]

    async def _enqueue_through_outbox(
        self, publisher: Publisher, messages: Sequence[JobMessage], kept_seconds: int
    ) -> list[Claimed]:
        texts = [wire.message(message, self._signer) for message in messages]
        claims = [self._claim(message, text, kept_seconds) for message, text in zip(messages, texts, strict=True)]
        became = await asyncio.gather(*claims)
        new = [place for place, word in enumerate(became) if word == Claimed.QUEUED]
        parcels = publisher.packed([messages[place] for place in new], self._signer)
        await self._publish_at_once(publisher, parcels, [texts[place] for place in new])
        return became

    async def _publish_at_once(self, publisher: Publisher, texts: Sequence[str], noted: Sequence[str]) -> None:
        """In the outbox the jobs are safe: workers publish what stays there."""
        with suppress(QueueUnavailable, RedisError, OSError):
            await self._publish(publisher, texts, noted)

    async def _publish(self, publisher: Publisher, texts: Sequence[str | bytes], noted: Sequence[str | bytes]) -> None:
        """Into the queue, and out of the outbox, where they are noted one by one."""
        if texts:
            await publisher.publish(texts)
            await asyncio.gather(*(self._scripts.call("published", [wire.OUTBOX], [text]) for text in noted))

    async def publish_due(self) -> int:
        if self._publisher is None:
            return 0
        with _unavailable("the outbox did not answer"):
            due: Any = await self._scripts.call("due", [wire.OUTBOX], [DUE_AT_ONCE, DUE_AGAIN_SECONDS])
            await self._publish(self._publisher, due, due)
        return len(due)

    async def parked(self) -> int:
        with _unavailable("the outbox did not answer"):
            return int(await self._client.zcard(wire.OUTBOX))

    async def status(self, job_id: str) -> Status | None:
        with _unavailable("the queue did not answer"):
            status: Any = await self._client.hget(wire.job_record(job_id), "status")
        return Status(status.decode()) if status else None

    async def pause(self, job_id: str) -> Pause | None:
        with _unavailable("the queue did not answer"):
            found: Any = await self._client.hmget(wire.job_record(job_id), ["due_at", "cause"])
        due_at, cause = found
        return Pause(float(due_at), cause.decode()) if due_at and cause else None

    async def cancel(self, job_id: str, record: bytes, kept_seconds: int) -> Status | None:
        name = wire.result_record(job_id)
        with _unavailable("the queue did not answer"):
            keys = [wire.job_record(job_id), name, wire.aliases(job_id)]
            reply = await self._scripts.call("cancel", keys, [record, kept_seconds, name, job_id])
        before = reply.decode()
        return None if before == "unknown" else Status(before)

    async def records(self, job_ids: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        with _unavailable("the results did not answer"):
            for start in range(0, len(job_ids), IDS_PER_LOOK):
                some = job_ids[start : start + IDS_PER_LOOK]
                records: Any = await self._client.mget([wire.result_record(job_id) for job_id in some])
                found += records
        return found

    def announcements(self) -> "RedisAnnouncements":
        return RedisAnnouncements(self._client)

    async def aclose(self) -> None:
        if self._publisher:
            await self._publisher.aclose()
        await self._client.aclose()


def _books() -> list[str]:
    return [wire.DEAD, wire.DEAD_TIMES, wire.cost_sums(day_of(time.time()))]


class RedisAnnouncements:
    """Workers publish each record on a channel of its own name, as Celery does."""

    def __init__(self, client: "Redis") -> None:
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)

    async def follow(self, job_ids: Sequence[str]) -> None:
        with _unavailable("the results did not answer"):
            await self._pubsub.subscribe(*map(wire.result_record, job_ids))

    async def unfollow(self, job_ids: Sequence[str]) -> None:
        with _unavailable("the results did not answer"):
            await self._pubsub.unsubscribe(*map(wire.result_record, job_ids))

    async def heard(self) -> list[tuple[str, bytes | None]]:
        with _unavailable("the results did not answer"):
            said = await self._pubsub.get_message(timeout=HEARD_SECONDS)
        if said is None:
            return []
        return [(said["channel"].decode().removeprefix(wire.RESULT_PREFIX), said["data"])]

    async def aclose(self) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


class RedisDeadLetters:
    """`ports.DeadLetters` on one Redis: a hash by job id, a sorted set by time of death, a count for each cause."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._scripts = Scripts(client, {"drop_letters": wire.script("shoal", "dead", "drop_letters")})

    async def letter(self, job_id: str) -> DeadLetter:
        with _unavailable("the queue did not answer"):
            raw: Any = await self._client.hget(wire.DEAD, job_id)
        if raw is None:
            raise UnknownJob(f"no dead letter {job_id}")
        return DeadLetter.model_validate_json(raw, extra="ignore")

    async def walk(self, cause: str | None = None) -> AsyncIterator[DeadLetter]:
        start = 0
        while page := await self._page(start):
            start += _LETTERS_PER_PAGE
            for raw in page:
                if raw is None:
                    continue
                letter = DeadLetter.model_validate_json(raw, extra="ignore")
                if cause is None or cause in (letter.cause, fingerprint(letter)):
                    yield letter

    async def _page(self, start: int) -> list[Any]:
        with _unavailable("the queue did not answer"):
            ids: Any = await self._client.zrevrange(wire.DEAD_TIMES, start, start + _LETTERS_PER_PAGE - 1)
            return list(await self._client.hmget(wire.DEAD, ids)) if ids else []

    async def groups(self) -> list[Group]:
        groups: dict[str, Group] = {}
        async for letter in self.walk():
            name = fingerprint(letter)
            known = groups.get(name)
            groups[name] = Group(name, known.count + 1, known.newest) if known else Group(name, 1, letter)
        return sorted(groups.values(), key=lambda group: -group.count)

    async def causes(self) -> dict[str, int]:
        with _unavailable("the queue did not answer"):
            counts: Any = await self._client.hgetall(wire.DEAD_CAUSES)
        return {cause.decode(): int(count) for cause, count in counts.items()}

    async def drop(self, job_ids: Iterable[str]) -> int:
        ids = list(job_ids)
        if not ids:
            return 0
        with _unavailable("the queue did not answer"):
            return int(await self._scripts.call("drop_letters", [wire.DEAD, wire.DEAD_TIMES], ids))
