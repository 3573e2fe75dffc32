"""`/metrics` of the whole fleet: what a scaler and an alert need. Every name stands here, with its meaning."""

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.fleet import FleetView


@dataclass(frozen=True, slots=True)
class Gauge:
    """One number, for each label value where `label` is set."""

    name: str
    meaning: str
    label: str = ""


BACKLOG = Gauge("shoal_backlog_jobs", "Jobs that wait to run: in the queue, fetched by a worker, or parked.")
WAITING = Gauge("shoal_waiting_jobs", "Jobs in the queue that no worker has fetched.", "lane")
PARKED = Gauge("shoal_parked_jobs", "Jobs that wait for their time: retries, snoozes, the outbox.")
HELD = Gauge("shoal_held_jobs", "Jobs that workers have fetched, running ones included.")
RUNNING = Gauge("shoal_running_jobs", "Jobs that run.")
UNACKED = Gauge("shoal_unacknowledged_messages", "Messages that workers have fetched and not acknowledged.")
WORKERS = Gauge("shoal_workers", "Worker processes that have told of themselves within ten seconds.")
SLOTS = Gauge("shoal_slots", "Jobs that all workers together may run at once.")
DONE = Gauge("shoal_done_jobs_per_second", "Jobs that all workers together end in a second.")
CAPACITY = Gauge("shoal_capacity_jobs_per_second", "Jobs they would end in a second if all slots were in use.")
DRAIN = Gauge("shoal_drain_seconds", "How long the backlog takes with the workers that are there: scale by this.")
UP = Gauge("shoal_queue_up", "1 when the queue answered, else 0 and the other figures are missing.")

GAUGES = (BACKLOG, WAITING, PARKED, HELD, RUNNING, UNACKED, WORKERS, SLOTS, DONE, CAPACITY, DRAIN, UP)

Sample = tuple[Gauge, str, float]


def samples(view: FleetView | None) -> Iterable[Sample]:
    """Gauge, label value, number. None: the queue did not answer."""
    yield UP, "", 0.0 if view is None else 1.0
    if view is None:
        return
    for lane, waiting in view.lanes.items():
        yield WAITING, lane, waiting.jobs
    yield BACKLOG, "", view.backlog_jobs
    yield PARKED, "", view.parked
    yield HELD, "", view.held
    yield RUNNING, "", view.running
    yield UNACKED, "", view.unacked
    yield WORKERS, "", len(view.workers)
    yield SLOTS, "", view.slots
    yield DONE, "", view.done_per_second
    yield CAPACITY, "", view.capacity_per_second
    yield DRAIN, "", view.drain_seconds
