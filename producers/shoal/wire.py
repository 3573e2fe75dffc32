"""Names and forms that producers and workers must agree on: tasks, queues, keys in Redis, the message."""

import json
import os
import socket
import uuid
from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from typing import Any

from shoal.jobs import JobMessage
from shoal.signing import Signer
from shoal.tracing import carrier

TASK_PREFIX = "shoal."
#: The queue that is served first, and the one that fills what it leaves.
QUEUE = "shoal"
BULK_QUEUE = "shoal.bulk"
#: The task of a message that holds many jobs.
PACK_TASK = "shoal.pack"

#: Celery's own name for a result, so that a plain Celery client finds it. Also the channel it is announced on.
RESULT_PREFIX = "celery-task-meta-"
SIGNATURE_HEADER = "shoal_signature"
TENANT_HEADER = "shoal_tenant"
#: How many jobs a message holds, as digits.
PACK_SIZE_HEADER = "shoal_jobs"
UNDECODABLE = "shoal:undecodable"
DEAD = "shoal:dead"
DEAD_TIMES = "shoal:dead:times"
DEAD_CAUSES = "shoal:dead:causes"
OPEN_CALLS = "shoal:calls:open"
OPEN_CALLS_DUE = "shoal:calls:open:due"
WORKERS = "shoal:workers"
#: Which `shoal beat` runs the schedule; gone when none does.
BEAT_LEADER = "shoal:beat:leader"
MAYBE_CALLS = "shoal:calls:maybe"
MAYBE_CALLS_TIMES = "shoal:calls:maybe:times"
MAYBE_CALLS_LOOKUPS = "shoal:calls:maybe:lookups"


def task_name(kind: str) -> str:
    return TASK_PREFIX + kind


def kind_of(task: str) -> str:
    return task.removeprefix(TASK_PREFIX)


def job_record(job_id: str) -> str:
    """A hash: fingerprint, status, lease."""
    return f"shoal:job:{job_id}"


def result_record(job_id: str) -> str:
    return RESULT_PREFIX + job_id


def aliases(job_id: str) -> str:
    """A set: other ids under which a job's ending is stored too."""
    return f"shoal:aliases:{job_id}"


def queue_of(job: JobMessage) -> str:
    """Where a job waits."""
    return BULK_QUEUE if job.lane == "bulk" else QUEUE


def waiting_list(queue: str, tenant: str) -> str:
    """The list in which a tenant's messages wait; those of no named tenant wait in the queue's own."""
    return f"shoal:tenant:{queue}:{tenant}" if tenant else queue


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


def script(package: str, *names: str) -> str:
    """The Lua text `lua/<name>.lua` of a package; several make one script."""
    return "".join(files(package).joinpath("lua", f"{name}.lua").read_text() for name in names)


_ORIGIN = f"{os.getpid()}@{socket.gethostname()}"


_EMBED = '{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'


def message(job: JobMessage, signer: Signer | None = None) -> str:
    """A job as kombu's Redis transport stores it, so that any Celery worker understands it.

    The columns that Flower shows hold sizes, never texts.
    """
    body = f'[[],{{"job":{job.model_dump_json()}}},{_EMBED}]'
    signed = {SIGNATURE_HEADER: signer.sign(job.model_dump(mode="json"))} if signer else {}
    sizes = f"'attempt': {job.attempt}, 'bytes': {len(body)}"
    shown = f"{{'tenant': '{job.tenant}', {_parts_of(job.args)}'kind': '{job.kind}', {sizes}}}"
    headers = _headers(task_name(job.kind), job.id, job.tenant, shown) | signed
    return _envelope(body, headers | {"retries": job.attempt - 1}, queue_of(job))


def _parts_of(args: dict[str, Any]) -> str:
    """How many labels, documents or fields there are, and nothing of what they say."""
    properties = args["fields"].get("properties") if isinstance(args.get("fields"), dict) else None
    found = {"labels": args.get("labels"), "documents": args.get("documents"), "fields": properties}
    return "".join(f"'{name}': {len(parts)}, " for name, parts in found.items() if isinstance(parts, list | dict))


def pack_frame(first: JobMessage, size_bytes: int) -> str:
    r"""A message of many jobs without them: `\x01` stands where they go, `\x02` where their number does.

    So a script can put together those that are new. All are of the first one's queue and tenant.
    """
    shown = f"{{'jobs': \x02, 'kind': '{first.kind}', 'tenant': '{first.tenant}', 'bytes': {size_bytes}}}"
    headers = _headers(PACK_TASK, str(uuid.uuid4()), first.tenant, shown) | {PACK_SIZE_HEADER: "\x02"}
    envelope = _envelope(f'[[],{{"jobs":[\x01]}},{_EMBED}]', headers, queue_of(first))
    return envelope.replace("\\u0001", "\x01").replace("\\u0002", "\x02")


def packed(job: JobMessage, signer: Signer | None = None) -> str:
    """A job as it stands in a pack: JSON inside a JSON string."""
    signature = f'"{signer.sign(job.model_dump(mode="json"))}"' if signer else "null"
    text = f'{{"job":{job.model_dump_json()},"signature":{signature}}}'
    return text.replace("\\", "\\\\").replace('"', '\\"')


def pack(jobs: Sequence[JobMessage], signer: Signer | None = None) -> str:
    """Many jobs of one queue and tenant as one message."""
    texts = [packed(job, signer) for job in jobs]
    frame = pack_frame(jobs[0], sum(map(len, texts)))
    return frame.replace("\x02", str(len(jobs))).replace("\x01", ",".join(texts))


def _envelope(body: str, headers: dict[str, Any], queue: str) -> str:
    envelope = {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": headers["id"],
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(envelope, separators=(",", ":"))


def _headers(task: str, task_id: str, tenant: str, shown: str) -> dict[str, Any]:
    """Celery's task protocol, version 2."""
    return {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": shown,
        "origin": _ORIGIN,
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        TENANT_HEADER: tenant,
        **carrier(),
    }
