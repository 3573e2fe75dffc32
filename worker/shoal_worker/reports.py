"""What a worker process tells of itself to all others, to `shoal top` and to `shoal metrics`."""

import resource
from importlib import metadata
from pathlib import Path

from shoal.reports import Minute, ModelCalls, WorkerReport
from shoal_worker.limits import Snapshot
from shoal_worker.slots import Slots

VERSION = metadata.version("shoal")
_STATM = Path("/proc/self/statm")


def report_of(
    name: str, slots: Slots, speed: tuple[float, float], gateway: str, snapshots: list[Snapshot], minute: Minute
) -> WorkerReport:
    """`speed`: jobs it ends in a second, and would end with all slots in use, limits considered."""
    done_per_second, capacity_per_second = speed
    return WorkerReport(
        name=name,
        slots=slots.limit,
        running=slots.running,
        held=slots.held,
        done_per_second=done_per_second,
        capacity_per_second=capacity_per_second,
        memory_bytes=memory_bytes(),
        gateway=gateway,
        calls=tuple(map(calls_of, snapshots)),
        minute=minute,
        version=VERSION,
    )


def calls_of(known: Snapshot) -> ModelCalls:
    """One model's limits, with times as spans: clocks of readers may differ."""
    pace = known.pace
    paused_until = max(pace.paused_until, known.key_paused_until)
    return ModelCalls(
        model=known.model,
        in_flight=known.in_flight,
        waiting=known.waiting,
        rate=min((rate for rate in (pace.rate, known.set_rate) if rate is not None), default=None),
        paused_seconds=max(0.0, paused_until - known.now),
        probe_seconds=max(0.0, pace.open_until - known.now) if pace.is_open else None,
        usual_seconds=pace.usual_latency,
    )


def calls_shown(report: WorkerReport) -> dict[str, list[str]]:
    """For Flower's page of the worker; a list, for it would put blanks into the names of models that are words."""
    shown = []
    for calls in report.calls:
        limit = "no limit known" if calls.rate is None else f"at most {calls.rate:,.1f} a second by all workers"
        shown += [calls.model, f"{calls.in_flight} in flight", f"{calls.waiting} held back", limit]
    return {"calls": shown}


def memory_bytes() -> int:
    """What the process holds in memory now; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
