"""Whether a worker process gets on: what it measures of itself each second, beside its loop, and tells in Redis.

The loop's thread does the telling, so a report that does not come says that this thread, or the process, stands. Of the
consumer's thread it says how long ago it turned. Nothing is asked of the process from outside: one that is stopped
could not answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shoal.fleet import FleetView
from shoal.reports import Progress
from shoal_worker.slots import LANES, Slots

Ring = Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class Pulse:
    """Celery's name of this process, and how to have something called on its consumer's thread, at the next turn."""

    node: str
    ring: Ring


class ProgressMeter:
    """Measured on the loop's thread."""

    def __init__(self, now: float, slots: Slots, pulse: Pulse) -> None:
        self._slots = slots
        self._pulse = pulse
        self._heard = True
        self._turned_at = now
        self._arrived = 0
        self._moved_at = now

    def measure(self, now: float, view: FleetView | None) -> Progress:
        """Call it about once a second. `view` is how the queue stood then; None: it did not answer."""
        if self._heard:
            self._heard, self._turned_at = False, now
            self._pulse.ring(self._hear)
        if view is None:
            # The consumer waits for it too, and for up to half a minute more once it is back.
            self._turned_at = now
        arrived = sum(lane.announced for lane in self._slots.lanes.values())
        if arrived != self._arrived or not self._could_take(view):
            self._arrived, self._moved_at = arrived, now
        return Progress(
            node=self._pulse.node,
            is_stopping=self._slots.is_closed,
            hub_silent_seconds=now - self._turned_at,
            stalled_seconds=now - self._moved_at,
        )

    def _hear(self) -> None:
        self._heard = True

    def _could_take(self, view: FleetView | None) -> bool:
        """Limits, an open breaker and full slots leave no room: then waiting is right."""
        if view is None or self._slots.is_closed:
            return False
        waiting = ((queue, view.lanes.get(lane)) for lane, queue in LANES.items())
        return any(lane and lane.messages and self._slots.room(queue) for queue, lane in waiting)
