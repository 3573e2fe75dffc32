"""What a job is known by: its key, the fingerprint of what it asks for, and its id. Pure."""

import hashlib
import json
import uuid
from typing import Any

from shoal.jobs import CONTRACT_VERSION, Args


def canonical_json(value: Any) -> bytes:
    """The one way to write a JSON value: sorted keys, no spaces, UTF-8. Equal values give equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def fingerprint(args: Args[Any], *, model: str | None = None) -> str:
    """What is asked for: kind, contract version, arguments and model, as 64 hex digits."""
    asked = [args.kind, CONTRACT_VERSION, args.model_dump(mode="json"), model]
    return hashlib.sha256(canonical_json(asked)).hexdigest()


def job_key(tenant: str, idempotency_key: str | None, work: str) -> str:
    """The caller's key, or else the work's own fingerprint; the two cannot meet, nor can two tenants."""
    chosen = f"work:{work}" if idempotency_key is None else f"key:{idempotency_key}"
    return f"{tenant}/{chosen}"


def job_id(key: str) -> str:
    """The job's id, and Celery's task id: a UUID made of the key, so equal keys are one job."""
    return str(uuid.UUID(bytes=hashlib.sha256(key.encode()).digest()[:16], version=5))
