"""What a producer does with Shoal, and what it sees of it: one JSON object, a value for each trial.

Run as a script under this version's code or the released one's (`test_compatibility.py`), so it uses only what the
released version has. A trial that fails is told by its error, and the others go on.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import shoal as package
from shoal import (
    AsyncShoal,
    Classify,
    Extract,
    IdempotencyConflict,
    JobCancelled,
    JobExpired,
    JobFailed,
    Options,
    Rank,
    Shoal,
    Status,
    Summarize,
)
from shoal.deadletters import Changes

LABELS = ("billing", "bug")
TEXT = "Ann Smith paid $12.50 on 2024-05-01. The weather was fine. Nobody complained."
FIELDS = {"type": "object", "properties": {"date": {"type": "string"}, "total": {"type": "number"}}}
WAIT_SECONDS = 60.0


def question(case: str, *faults: str) -> Classify:
    markers = " ".join(f"[[fault:{fault}]]" for fault in faults)
    return Classify(text=f"I was charged twice, case {case}. {markers}", labels=LABELS)


def reached(client: Shoal, job_id: str, status: Status) -> None:
    ends_at = time.monotonic() + WAIT_SECONDS
    while client.status(job_id) != status:
        if time.monotonic() > ends_at:
            raise TimeoutError(f"the job is {client.status(job_id)}, not {status}")
        time.sleep(0.02)


def classify(client: Shoal) -> Any:
    outcome = client.enqueue(question("classify")).outcome(WAIT_SECONDS)
    return [outcome.result.label, outcome.attempts, outcome.usage.calls, outcome.usage.cost_usd > 0, outcome.sandbox]


def extract(client: Shoal) -> Any:
    result = client.enqueue(Extract(text=TEXT, fields=FIELDS)).result(WAIT_SECONDS)
    return [result.data["date"], all(e.start is None or TEXT[e.start : e.end] == e.quote for e in result.evidence)]


def rank(client: Shoal) -> Any:
    job = client.enqueue(Rank(query="cat food", documents=("dogs bark", "the cat eats food", "x")))
    result = job.result(WAIT_SECONDS)
    return [result.top[0].id, len(result.ranking)]


def summarize(client: Shoal) -> Any:
    result = client.enqueue(Summarize(text=TEXT, length_words=10)).result(WAIT_SECONDS)
    spans = [span for sentence in result.sentences for span in sentence.sources]
    return [bool(result.summary), bool(spans), all(TEXT[span.start : span.end] == span.quote for span in spans)]


def retry(client: Shoal) -> Any:
    outcome = client.enqueue(question("retry", "server_500*2")).outcome(WAIT_SECONDS)
    return [outcome.result.label, outcome.attempts]


def snooze(client: Shoal) -> Any:
    outcome = client.enqueue(question("snooze", "upstream_429:2*1")).outcome(WAIT_SECONDS)
    return [outcome.result.label, outcome.attempts]


def cancelled_in_flight(client: Shoal) -> Any:
    job = client.enqueue(question("cancelled in flight", "slow_headers:60"))
    reached(client, job.id, Status.RUNNING)
    return _cancelled(client, job.id)


def cancelled_while_parked(client: Shoal) -> Any:
    job = client.enqueue(question("cancelled while parked", "upstream_429:5"))
    reached(client, job.id, Status.RETRYABLE)
    return _cancelled(client, job.id)


def _cancelled(client: Shoal, job_id: str) -> Any:
    first, second = client.cancel(job_id), client.cancel(job_id)
    try:
        client.outcome(job_id, WAIT_SECONDS)
    except JobCancelled as error:
        return [first, second, error.cause, client.status(job_id)]
    return "it was answered"


def expired(client: Shoal) -> Any:
    job = client.enqueue(question("expired", "upstream_429:3600"), expires_in_seconds=600)
    try:
        job.result(WAIT_SECONDS)
    except JobExpired as error:
        return [error.cause, error.attempts]
    return "it was answered"


def died_and_replayed(client: Shoal) -> Any:
    args = question("died", "server_500*1", "bad_request*1")
    job = client.enqueue(args)
    try:
        job.result(WAIT_SECONDS)
    except JobFailed as error:
        failure = [error.cause, error.attempts, error.job_id == job.id]
    else:
        return "it was answered"

    async def replayed() -> Any:
        async with AsyncShoal(client.settings) as dead:
            letter = await dead.dead.letter(job.id)
            message = letter.message or {}
            seen = [letter.cause, letter.attempts, letter.kind, message.get("args") == args.model_dump(mode="json")]
            again = await dead.replay(letter, Changes())
            outcome = await again.outcome(WAIT_SECONDS)
            return [failure, seen, again.id == job.id, outcome.attempts]

    return asyncio.run(replayed())


def joined(client: Shoal) -> Any:
    args = question("joined", "slow_headers:1")
    first, second = client.enqueue(args), client.enqueue(args)
    outcomes = [first.outcome(WAIT_SECONDS), second.outcome(WAIT_SECONDS), client.enqueue(args).outcome(WAIT_SECONDS)]
    same = all(outcome == outcomes[0] for outcome in outcomes)
    return [first.joined, second.joined, first.id == second.id, same, outcomes[0].usage.calls]


def conflict(client: Shoal) -> Any:
    client.enqueue(question("conflict"), idempotency_key="order-17").result(WAIT_SECONDS)
    try:
        client.enqueue(question("another"), idempotency_key="order-17")
    except IdempotencyConflict:
        return "refused"
    return "taken"


def mapped(client: Shoal) -> Any:
    """In the lane that workers of all versions read; the bulk lane is read by those that know it."""
    lane: Any = {"lane": "interactive"} if "lane" in Options.__annotations__ else {}
    jobs = (question(f"map {n}") for n in range(30))
    return sum(outcome.result.label == "billing" for outcome in client.map(jobs, **lane))


TRIALS: tuple[Callable[[Shoal], Any], ...] = (
    classify,
    extract,
    rank,
    summarize,
    retry,
    snooze,
    cancelled_in_flight,
    cancelled_while_parked,
    expired,
    died_and_replayed,
    joined,
    conflict,
    mapped,
)


def seen_of(trial: Callable[[Shoal], Any], client: Shoal) -> Any:
    try:
        return trial(client)
    except Exception as error:  # noqa: BLE001 told in its place
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    with Shoal() as given:
        answers = {trial.__name__: seen_of(trial, given) for trial in TRIALS}
    json.dump({"code": package.__file__, "answers": answers}, sys.stdout)
