"""How the whole fleet stands: what waits, who works, and how long that will take. Read from the queue's Redis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shoal import wire
from shoal.errors import QueueUnavailable
from shoal.redis_url import in_words, open_client
from shoal.reports import Minute, ModelCalls, WorkerReport
from shoal.scripts import Scripts

#: A worker that has told nothing for so long is gone, or as good as gone.
SILENT_SECONDS = 10
#: So many tenants of a lane are named, those of whom most waits.
TENANTS_NAMED = 5
#: Where no worker works, the work is thought to be done by one job at a time, of a second each.
_LEAST_CAPACITY = 1.0
_LANES = (("interactive", wire.QUEUE), ("bulk", wire.BULK_QUEUE))


@dataclass(frozen=True, slots=True)
class Lane:
    """What waits in a lane and was not fetched yet. `jobs` is an estimate where messages hold many.

    `tenants` are the few of whom most waits, by name; '' stands for jobs of nobody in particular.
    """

    messages: int = 0
    jobs: int = 0
    tenants: Mapping[str, "Lane"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FleetView:
    """One look. `parked` messages wait for their time, `unacked` ones are with workers."""

    lanes: dict[str, Lane] = field(default_factory=dict)
    parked: int = 0
    unacked: int = 0
    workers: tuple[WorkerReport, ...] = ()
    #: Whether a beat runs the schedule.
    has_beat: bool = False

    @property
    def backlog_jobs(self) -> int:
        """All jobs that do not run: not fetched, fetched, or parked."""
        return sum(lane.jobs for lane in self.lanes.values()) + self.parked + self.held - self.running

    @property
    def held(self) -> int:
        return sum(worker.held for worker in self.workers)

    @property
    def running(self) -> int:
        return sum(worker.running for worker in self.workers)

    @property
    def slots(self) -> int:
        return sum(worker.slots for worker in self.workers)

    @property
    def done_per_second(self) -> float:
        return sum(worker.done_per_second for worker in self.workers)

    @property
    def capacity_per_second(self) -> float:
        return max(_LEAST_CAPACITY, sum(worker.capacity_per_second for worker in self.workers))

    @property
    def minute(self) -> Minute:
        """The last minute of all workers that live."""
        return sum((worker.minute for worker in self.workers), Minute())

    @property
    def calls(self) -> tuple[ModelCalls, ...]:
        """Calls by model, all workers together. Those of several keys add up; one that is stopped is seen."""
        by_model: dict[str, dict[str, list[ModelCalls]]] = {}
        for worker in self.workers:
            for calls in worker.calls:
                by_model.setdefault(calls.model, {}).setdefault(worker.gateway, []).append(calls)
        return tuple(_together(model, list(gateways.values())) for model, gateways in sorted(by_model.items()))

    @property
    def drain_seconds(self) -> float:
        """How long the backlog takes with the workers that are there."""
        return self.backlog_jobs / self.capacity_per_second


def _together(model: str, gateways: list[list[ModelCalls]]) -> ModelCalls:
    """One model's calls of all workers, given by gateway. Workers of one gateway agree but for a moment's delay."""
    told = [calls for gateway in gateways for calls in gateway]
    rates = [gateway[-1].rate for gateway in gateways]
    probes = [calls.probe_seconds for calls in told if calls.probe_seconds is not None]
    return ModelCalls(
        model=model,
        in_flight=sum(calls.in_flight for calls in told),
        waiting=sum(calls.waiting for calls in told),
        rate=None if None in rates else sum(rate for rate in rates if rate is not None),
        paused_seconds=max(calls.paused_seconds for calls in told),
        probe_seconds=max(probes, default=None),
        usual_seconds=max(calls.usual_seconds for calls in told),
    )


class Fleet:
    """Looks, and tells of this process where it is a worker."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._scripts = Scripts(client, {"fleet": wire.script("shoal", "queue", "fleet")})

    async def look(self, report: WorkerReport | None = None) -> FleetView:
        """Raises `QueueUnavailable`."""
        keys = [wire.WORKERS, wire.OUTBOX, "unacked", wire.BEAT_LEADER, *(queue for _, queue in _LANES)]
        told = [report.name, report.model_dump_json()] if report else ["", ""]
        try:
            reply = await self._scripts.call("fleet", keys, [*told, SILENT_SECONDS, TENANTS_NAMED])
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue did not answer: {in_words(error)}") from error
        return _view(reply)

    async def aclose(self) -> None:
        await self._client.aclose()


def open_fleet(queue_url: str) -> Fleet:
    return Fleet(open_client(queue_url, socket_timeout=10, socket_connect_timeout=5))


def _view(reply: Sequence[Any]) -> FleetView:
    parked, unacked, beats, told, *counted = reply
    lanes = {lane: _lane(*counts) for (lane, _), counts in zip(_LANES, counted, strict=True)}
    return FleetView(lanes, int(parked), int(unacked), tuple(filter(None, map(_report, told))), bool(beats))


def _lane(messages: int, jobs: int, *named: Any) -> Lane:
    parts = zip(named[::3], named[1::3], named[2::3], strict=True)
    return Lane(messages, jobs, {tenant.decode(): Lane(some, theirs) for tenant, some, theirs in parts})


def _report(text: bytes) -> WorkerReport | None:
    """What a worker of another version tells may lack something."""
    try:
        return WorkerReport.model_validate_json(text, extra="ignore")
    except ValidationError:
        return None
