"""Names and forms that producers and workers must agree on: tasks, queues, keys in Redis, the message."""

import json
import os
import socket
import uuid
from datetime import date
from importlib.resources import files
from typing import Any

from shoal.jobs import JobMessage
from shoal.signing import Signer

TASK_PREFIX = "shoal."
QUEUE = "shoal"

#: Celery's own name for a result, so that a plain Celery client finds it. Also the channel it is announced on.
RESULT_PREFIX = "celery-task-meta-"
SIGNATURE_HEADER = "shoal_signature"
UNDECODABLE = "shoal:undecodable"
DEAD = "shoal:dead"
DEAD_TIMES = "shoal:dead:times"
OPEN_CALLS = "shoal:calls:open"
OPEN_CALLS_DUE = "shoal:calls:open:due"
MAYBE_CALLS = "shoal:calls:maybe"
MAYBE_CALLS_TIMES = "shoal:calls:maybe:times"
MAYBE_CALLS_LOOKUPS = "shoal:calls:maybe:lookups"


def task_name(kind: str) -> str:
    return TASK_PREFIX + kind


def job_record(job_id: str) -> str:
    """A hash: fingerprint, status, lease."""
    return f"shoal:job:{job_id}"


def result_record(job_id: str) -> str:
    return RESULT_PREFIX + job_id


def parked(queue: str) -> str:
    """A sorted set of messages by the Unix second at which they are due."""
    return f"shoal:parked:{queue}"


def job_calls(job_id: str) -> str:
    """A hash: unsettled calls of a job that has not ended, and what its settled ones cost."""
    return f"shoal:calls:job:{job_id}"


def cost_sums(day: date) -> str:
    """A hash: what the calls of a UTC day cost, a sum for each `what|kind|tenant|model`."""
    return f"shoal:cost:{day.isoformat()}"


#: Where messages stand that wait for their time, or to be published in a queue elsewhere.
OUTBOX = parked(QUEUE)


def script(package: str, name: str) -> str:
    """The Lua text `lua/<name>.lua` of a package."""
    return files(package).joinpath("lua", f"{name}.lua").read_text()


_ORIGIN = f"{os.getpid()}@{socket.gethostname()}"


def message(job: JobMessage, signer: Signer | None = None, queue: str = QUEUE) -> str:
    """A job as kombu's Redis transport stores it, so that any Celery worker understands it.

    The columns that Flower shows hold sizes, never texts.
    """
    body = f'[[],{{"job":{job.model_dump_json()}}},{{"callbacks":null,"errbacks":null,"chain":null,"chord":null}}]'
    signed = {SIGNATURE_HEADER: signer.sign(job.model_dump(mode="json"))} if signer else {}
    envelope = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": _headers(job, len(body)) | signed,
        "properties": {
            "correlation_id": job.id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(envelope, separators=(",", ":"))


def _headers(job: JobMessage, size_bytes: int) -> dict[str, Any]:
    """Celery's task protocol, version 2."""
    return {
        "lang": "py",
        "task": task_name(job.kind),
        "id": job.id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": job.attempt - 1,
        "timelimit": [None, None],
        "root_id": job.id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": f"{{'kind': '{job.kind}', 'tenant': '{job.tenant}', 'attempt': {job.attempt}, "
        f"'bytes': {size_bytes}}}",
        "origin": _ORIGIN,
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
