"""What a job is known by: its key, the fingerprint of what it asks for, and its id. Pure."""

import hashlib
import json
from typing import Any

from shoal.jobs import CONTRACT_VERSION, Args

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """The one way to write a JSON value: sorted keys, no spaces, UTF-8. Equal values give equal bytes."""
    return _CANONICAL.encode(value).encode()


def fingerprint(args: Args[Any], *, model: str | None = None) -> str:
    """What is asked for: kind, contract version, arguments and model, as 64 hex digits."""
    return fingerprint_of(args.kind, args.model_dump(mode="json"), model)


def fingerprint_of(kind: str, args: dict[str, Any], model: str | None) -> str:
    """The same, of arguments as JSON values."""
    asked = [kind, CONTRACT_VERSION, args, model]
    return hashlib.sha256(canonical_json(asked)).hexdigest()


def job_key(tenant: str, idempotency_key: str | None, work: str, run: str | None = None) -> str:
    """The caller's key, or else the work's own fingerprint, in a run or not. None of these meet, nor do two tenants."""
    if idempotency_key is not None:
        return f"{tenant}/key:{idempotency_key}"
    return f"{tenant}/work:{work}" if run is None else f"{tenant}/run:{run}:{work}"


def job_id(key: str) -> str:
    """The job's id, and Celery's task id: a UUID made of the key, so equal keys are one job."""
    digest = bytearray(hashlib.sha256(key.encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50  # version 5
    digest[8] = digest[8] & 0x3F | 0x80  # the variant
    digits = digest.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
