"""A message of many jobs: each has its own slot, lease, result, retry and dead letter, as if it had come alone.

A retried job is parked alone and leaves the message so. The message is done when each of its jobs has ended or is
parked; where one is neither (its worker stops, the store fails it) the whole message comes again, and the others find
their results.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from shoal.jobs import Outcome, Usage
from shoal_worker.retry import Discard, Retry, Snooze
from shoal_worker.runner import Done, Ending, Runner
from shoal_worker.slots import Load, Slots, SlotsClosedError

log = structlog.get_logger()

MAX_ID_CHARS = 100
#: Words of jobs that will not come again by themselves.
ENDED = ("answered", "replayed", "discarded", "cancelled")


@dataclass(slots=True)
class PackEnd:
    """What became of the jobs, by word. `failed` could not be brought to any end; `put_back` were not begun."""

    jobs: int
    words: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)

    @property
    def is_whole(self) -> bool:
        return not self.words["failed"] and not self.words["put_back"]

    def count(self, ending: Ending) -> None:
        match ending:
            case Done(ended, replayed):
                self.words["replayed" if replayed else "answered"] += 1
                if isinstance(ended, Outcome) and not replayed:
                    self.usage += ended.usage
            case Retry():
                self.words["retried"] += 1
            case Snooze():
                self.words["snoozed"] += 1
            case Discard(cause):
                self.words["discarded"] += 1
                self.words[cause] += 1

    def summary(self) -> str:
        """What is safe to show: counts and cost."""
        words, usage = self.words, self.usage
        ended = sum(words[word] for word in ENDED)
        parked = words["retried"] + words["snoozed"]
        said = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
        cost = f"{usage.input_tokens}+{usage.output_tokens} tokens, ${usage.cost_usd:.6f}"
        return f"{self.jobs} jobs, {ended} ended, {parked} parked: {said}; {cost}"


class Packs:
    """Runs messages of many jobs, and knows each job's task, so that one can be cancelled."""

    def __init__(self, runner: Runner, slots: Slots) -> None:
        self._runner = runner
        self._slots = slots
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()

    async def run(self, pack_id: str, items: Sequence[Any], load: Load) -> PackEnd:
        end = PackEnd(len(items))
        async with asyncio.TaskGroup() as group:
            for place, item in enumerate(items):
                raw, signature = _parts(item)
                job_id = _id_of(raw) or f"{pack_id}.{place}"
                work = self._run(job_id, raw, signature, load, end)
                self._running[job_id] = group.create_task(work)
        return end

    def cancel(self, job_id: str) -> None:
        """End a job that runs; the producer has said so in its record."""
        if task := self._running.get(job_id):
            self._cancelled.add(job_id)
            task.cancel()

    async def _run(self, job_id: str, raw: Any, signature: object, load: Load, end: PackEnd) -> None:
        try:
            place = await self._slots.take(load)
            try:
                end.count(await self._runner.run(job_id, raw, signature, place.free))
            finally:
                place.free()
        except SlotsClosedError:
            end.words["put_back"] += 1
        except asyncio.CancelledError:
            if job_id not in self._cancelled:
                raise
            end.words["cancelled"] += 1
        except Exception:
            log.exception("delivery_failed", job_id=job_id)
            end.words["failed"] += 1
        finally:
            self._slots.end(load)
            self._running.pop(job_id, None)
            self._cancelled.discard(job_id)


def _parts(item: Any) -> tuple[Any, object]:
    """A job and its signature; what is no such thing is a job that cannot be read."""
    return (item.get("job"), item.get("signature")) if isinstance(item, dict) else (item, None)


def _id_of(raw: Any) -> str | None:
    job_id = raw.get("id") if isinstance(raw, dict) else None
    return job_id if isinstance(job_id, str) and 0 < len(job_id) <= MAX_ID_CHARS else None


def job_ids(items: Any) -> list[str]:
    """The ids that a message names, for one that is ended without being run."""
    found = [_id_of(_parts(item)[0]) for item in items] if isinstance(items, list) else []
    return [job_id for job_id in found if job_id]
