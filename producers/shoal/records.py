"""The stored form of an answer or a failure: Celery's own result record, with an `Outcome` as its result. Pure."""

import json
from datetime import UTC, datetime
from typing import Any

from shoal.errors import JobCancelled, JobExpired, JobFailed
from shoal.jobs import RESULTS, Outcome, Result, Status


def answered(outcome: Outcome[Result]) -> bytes:
    """The record of an answer."""
    done = _iso(outcome.finished_at)
    return (
        f'{{"status":"SUCCESS","result":{outcome.model_dump_json()},"traceback":null,"children":[],'
        f'"date_done":"{done}","task_id":"{outcome.job_id}"}}'
    ).encode()


def failed(error: JobFailed, now: float) -> bytes:
    """The record of a job that was given up or cancelled."""
    return json.dumps(
        {
            "status": "REVOKED" if isinstance(error, JobCancelled) else "FAILURE",
            "result": {
                "exc_type": type(error).__name__,
                "exc_message": [error.reason, error.job_id, error.cause, error.attempts],
                "exc_module": "shoal.errors",
            },
            "traceback": None,
            "children": [],
            "date_done": _iso(now),
            "task_id": error.job_id,
        }
    ).encode()


def ended(ending: Outcome[Any] | JobFailed, now: float) -> tuple[bytes, Status]:
    """The record of either, and the status that goes with it."""
    if isinstance(ending, Outcome):
        return answered(ending), Status.COMPLETED
    return failed(ending, now), Status.CANCELLED if isinstance(ending, JobCancelled) else Status.DISCARDED


def decoded(record: bytes) -> Outcome[Any] | JobFailed:
    """Read a record back, those of newer workers included."""
    value = json.loads(record)
    if value["status"] == "SUCCESS":
        result = value["result"]
        return RESULTS[result["kind"]].model_validate(result, extra="ignore")
    return _failure(value)


_FAILURES = {error.__name__: error for error in (JobFailed, JobCancelled, JobExpired)}


def _failure(value: dict[str, Any]) -> JobFailed:
    result = value["result"] if isinstance(value["result"], dict) else {}
    if result.get("exc_type") in _FAILURES:
        return _FAILURES[result["exc_type"]](*result["exc_message"])
    return JobFailed(f"Celery recorded {value['status']}", value.get("task_id", ""), "worker_error")


def _iso(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat()
