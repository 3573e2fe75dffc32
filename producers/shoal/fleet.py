"""How the whole fleet stands: what waits, who works, and how long that will take. Read from the queue's Redis."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shoal import wire
from shoal.errors import QueueUnavailable
from shoal.jobs import Wire
from shoal.redis_url import open_client
from shoal.scripts import Scripts

#: A worker that has told nothing for so long is gone, or as good as gone.
SILENT_SECONDS = 10
#: Where no worker works, the work is thought to be done by one job at a time, of a second each.
_LEAST_CAPACITY = 1.0
_LANES = (("interactive", wire.QUEUE), ("bulk", wire.BULK_QUEUE))


class WorkerReport(Wire):
    """What a worker process tells of itself each second.

    `slots` is how many jobs it may run at once, `held` how many it has, running ones included. `capacity_per_second` is
    what it would end if all slots were in use, limits considered.
    """

    name: str
    slots: int
    running: int
    held: int
    done_per_second: float
    capacity_per_second: float
    #: Celery's name of the process. Workers of before do not tell it, nor what follows.
    node: str = ""
    #: It drains: nothing begins there any more.
    is_stopping: bool = False
    #: Since the consumer's thread turned last.
    hub_silent_seconds: float = 0.0
    #: For how long messages have waited that it had room for, while none came.
    stalled_seconds: float = 0.0

    @property
    def host(self) -> str:
        """The name of its machine, or container. `name` is PID@HOST/CHANCE."""
        return self.name.partition("@")[2].rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Lane:
    """What waits in a lane and was not fetched yet. `jobs` is an estimate where messages hold many."""

    messages: int = 0
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class FleetView:
    """One look. `parked` messages wait for their time, `unacked` ones are with workers."""

    lanes: dict[str, Lane] = field(default_factory=dict)
    parked: int = 0
    unacked: int = 0
    workers: tuple[WorkerReport, ...] = ()

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
    def drain_seconds(self) -> float:
        """How long the backlog takes with the workers that are there."""
        return self.backlog_jobs / self.capacity_per_second


class Fleet:
    """Looks, and tells of this process where it is a worker."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._scripts = Scripts(client, {"fleet": wire.script("shoal", "queue", "fleet")})

    async def look(self, report: WorkerReport | None = None) -> FleetView:
        """Raises `QueueUnavailable`."""
        keys = [wire.WORKERS, wire.OUTBOX, "unacked", *(queue for _, queue in _LANES)]
        told = [report.name, report.model_dump_json()] if report else ["", ""]
        try:
            reply = await self._scripts.call("fleet", keys, [*told, SILENT_SECONDS])
        except (RedisError, OSError) as error:
            raise QueueUnavailable(f"the queue did not answer: {type(error).__name__}") from error
        return _view(reply)

    async def aclose(self) -> None:
        await self._client.aclose()


def open_fleet(queue_url: str) -> Fleet:
    return Fleet(open_client(queue_url, socket_timeout=10, socket_connect_timeout=5))


def _view(reply: Sequence[bytes | int]) -> FleetView:
    parked, unacked, *rest = reply
    counts, told = rest[: 2 * len(_LANES)], rest[2 * len(_LANES) :]
    lanes = {lane: Lane(int(counts[2 * place]), int(counts[2 * place + 1])) for place, (lane, _) in enumerate(_LANES)}
    return FleetView(lanes, int(parked), int(unacked), tuple(filter(None, map(_report, told))))


def _report(text: bytes | int) -> WorkerReport | None:
    """What a worker of another version tells may lack something."""
    try:
        return WorkerReport.model_validate_json(text, extra="ignore") if isinstance(text, bytes) else None
    except ValidationError:
        return None
