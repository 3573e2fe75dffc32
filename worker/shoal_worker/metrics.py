"""`/metrics` of the whole fleet: what a scaler and an alert need. Every name stands here, with its meaning.

Where OpenTelemetry's GenAI conventions name the same thing, the meaning says so; the label `model` is their
`gen_ai.request.model`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.fleet import FleetView
from shoal.overview import Overview


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
DEAD = Gauge("shoal_dead_letters", "Jobs that were given up and are kept as dead letters.", "cause")
FAILURES = Gauge("shoal_failures_per_minute", "Attempts at jobs that ended without an answer, last minute.", "cause")
CALLS = Gauge("shoal_calls_per_minute", "Calls to the provider that were over in the last minute.")
REFUSED = Gauge("shoal_refused_calls_per_minute", "Those that the provider had no room for: 429, or too much at once.")
IN_FLIGHT = Gauge("shoal_in_flight_calls", "Calls that are with the provider.", "model")
WAITING_CALLS = Gauge("shoal_waiting_calls", "Calls of running jobs that the limits hold back.", "model")
LIMIT = Gauge("shoal_limit_calls_per_second", "What calls are held to; none where no limit is known.", "model")
BREAKER = Gauge("shoal_breaker_open", "1 while the provider fails and only probes are sent, else 0.", "model")
PAUSED = Gauge("shoal_paused_seconds", "For how long nobody calls, because the provider asked for it.", "model")
CALL = Gauge("shoal_usual_call_seconds", "How long a call takes, a mean: gen_ai.client.operation.duration.", "model")
TOKENS = Gauge(
    "shoal_tokens_per_minute", "Last minute's tokens: gen_ai.client.token.usage by gen_ai.token.type.", "type"
)
COST = Gauge("shoal_cost_usd_per_minute", "What the provider charged for replies of the last minute.")
BEAT = Gauge("shoal_beat_leads", "1 while a beat runs the schedule, else 0: none is there, or none reaches Redis.")
UP = Gauge("shoal_queue_up", "1 when the queue answered, else 0 and the other figures are missing.")
RESULTS_UP = Gauge("shoal_results_up", "1 when the results answered, else 0: no dead letters, and parked jobs lack.")

GAUGES = tuple(gauge for gauge in vars().values() if isinstance(gauge, Gauge))

Sample = tuple[Gauge, str, float]


def samples(seen: Overview | None) -> Iterable[Sample]:
    """Gauge, label value, number. None: the queue did not answer."""
    yield UP, "", 0.0 if seen is None else 1.0
    if seen is None:
        return
    yield RESULTS_UP, "", 0.0 if seen.dead is None else 1.0
    for cause, letters in (seen.dead or {}).items():
        yield DEAD, cause, letters
    yield BEAT, "", float(seen.fleet.has_beat)
    yield from _jobs(seen.fleet)
    yield from _calls(seen.fleet)


def _jobs(view: FleetView) -> Iterable[Sample]:
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


def _calls(view: FleetView) -> Iterable[Sample]:
    minute = view.minute
    yield CALLS, "", minute.calls
    yield REFUSED, "", minute.refused
    yield COST, "", minute.cost_usd
    yield TOKENS, "input", minute.input_tokens
    yield TOKENS, "output", minute.output_tokens
    for cause, failures in minute.failures.items():
        yield FAILURES, cause, failures
    for calls in view.calls:
        yield IN_FLIGHT, calls.model, calls.in_flight
        yield WAITING_CALLS, calls.model, calls.waiting
        yield BREAKER, calls.model, 0.0 if calls.probe_seconds is None else 1.0
        yield PAUSED, calls.model, calls.paused_seconds
        yield CALL, calls.model, calls.usual_seconds
        if calls.rate is not None:
            yield LIMIT, calls.model, calls.rate
