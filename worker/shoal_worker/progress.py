"""Whether a worker process gets on: what it measures of itself each second, beside its loop, and tells in Redis.

The loop's thread does the telling, so a report that does not come says that this thread, or the process, stands. Of the
consumer's thread it says how long ago it turned. Nothing is asked of the process from outside: one that is stopped
could not answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shoal.fleet import FleetView
from shoal_worker.slots import LANES, Slots

Ring = Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Pulse:
    """Celery's name of this process, and how to have something called on its consumer's thread, at the next turn."""

    node: str
    ring: Ring


@dataclass(frozen=True, slots=True)
class Standstill:
    """`hub_silent_seconds`: since the consumer's thread turned last. `stalled_seconds`: for how long messages have
    waited that this process had room for, and none came.
    """

    hub_silent_seconds: float
    stalled_seconds: float


class Progress:
    """Measured on the loop's thread."""

    def __init__(self, now: float, slots: Slots, ring: Ring) -> None:
        self._slots = slots
        self._ring = ring
        self._rung = False
        self._heard = True
        self._turned_at = now
        self._arrived = 0
        self._moved_at = now

    def measure(self, now: float, view: FleetView | None) -> Standstill:
        """Call it about once a second. `view` is how the queue stood then; None: not known."""
        if self._heard:
            self._heard, self._turned_at = False, now
            self._ring(self._hear)
        arrived = sum(lane.announced for lane in self._slots.lanes.values())
        if arrived != self._arrived or not self._could_take(view):
            self._arrived, self._moved_at = arrived, now
        return Standstill(now - self._turned_at, now - self._moved_at)

    def _hear(self) -> None:
        self._heard = True

    def _could_take(self, view: FleetView | None) -> bool:
        """Limits, an open breaker and full slots leave no room: then waiting is right."""
        if view is None or self._slots.is_closed:
            return False
        waiting = ((queue, view.lanes.get(lane)) for lane, queue in LANES.items())
        return any(lane and lane.messages and self._slots.room(queue) for queue, lane in waiting)
