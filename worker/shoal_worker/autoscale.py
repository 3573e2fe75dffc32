"""`--autoscale=max,min`: how many slots a worker has, by what waits. Chosen by `worker_autoscaler`.

Celery's own adds a slot a second and sees only what a worker has fetched. A slot here is a place on an event loop and
costs nothing while it is empty: it is there at once when there is work, up to what the limits allow, and goes slowly.
"""

from dataclasses import dataclass
from time import monotonic
from typing import Any

from celery.worker.autoscale import Autoscaler as CeleryAutoscaler

from shoal_worker.process import process_if_open

LOOK_SECONDS = 1.0
#: Slots that go in one look: one in so many, one at least.
SHRINK_SHARE = 10


@dataclass(frozen=True, slots=True)
class Demand:
    """`held` jobs are in this worker, `waiting` ones in the queue for all `workers`. `bound`: what limits allow it."""

    held: int
    waiting: int
    workers: int
    bound: int | None


def wanted_slots(current: int, demand: Demand, lowest: int, highest: int) -> int:
    """Grows in one step, shrinks by a tenth, never beyond a limit."""
    share = -(-demand.waiting // max(1, demand.workers))
    top = highest if demand.bound is None else min(highest, demand.bound)
    wanted = max(lowest, min(demand.held + share, top))
    return max(wanted, current - max(1, current // SHRINK_SHARE)) if wanted < current else wanted


class Autoscaler(CeleryAutoscaler):
    """Called by Celery's loop at each message and each second; looks each second, and at once when slots are short."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "keepalive": LOOK_SECONDS})
        self._looks_again_at = 0.0

    def maybe_scale(self, req: Any = None) -> None:
        held = self.pool.slots.held
        is_short = held > self.pool.limit and self.pool.limit < self.max_concurrency
        now = monotonic()
        if req is not None and not is_short:
            return
        if is_short or now >= self._looks_again_at:
            self._looks_again_at = now + LOOK_SECONDS / 2
            self._scale(held)

    def _scale(self, held: int) -> None:
        known = process_if_open()
        view = known.fleet_view if known else None
        demand = Demand(
            held=held,
            waiting=sum(lane.jobs for lane in view.lanes.values()) if view else 0,
            workers=len(view.workers) if view else 1,
            bound=known.calls_at_once if known else None,
        )
        change = wanted_slots(self.processes, demand, self.min_concurrency, self.max_concurrency) - self.processes
        if change > 0:
            self.pool.grow(change)
        elif change < 0:
            self.pool.shrink(-change)

    @property
    def qty(self) -> int:
        """What `inspect stats` shows."""
        held: int = self.pool.slots.held
        return held
