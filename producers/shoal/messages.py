"""What a producer sends: a job with its key, and how many go in a message. Pure, but for the chance in a fresh key."""

import uuid
from collections.abc import Iterable, Iterator
from typing import Any, TypedDict, get_args

from shoal import keys
from shoal.errors import InvalidJob
from shoal.jobs import Args, JobMessage, Lane
from shoal.settings import ProducerSettings

#: A message of many jobs holds no more than these, unless one alone is larger.
PACK_JOBS = 50
PACK_CHARS = 250_000
MAX_LIFE_SECONDS = 100 * 365 * 86_400


class Options(TypedDict, total=False):
    """How a job is to be run, beside what it asks for.

    `idempotency_key`: the caller's own name for the work; without one the work itself is the key. `fresh` asks for
    a new answer. `model` overrides the worker's. `lane`: "interactive" jobs are served first, "bulk" ones fill what is
    left; single jobs are the one unless told otherwise, many at once the other. `expires_in_seconds`, or `expires_at`
    in Unix seconds, bounds the whole life of the job, a call in flight included. A job that is joined keeps the life
    and the lane that it has.
    """

    idempotency_key: str
    fresh: bool
    model: str
    lane: Lane
    expires_in_seconds: float
    expires_at: float


def expiry(options: Options, settings: ProducerSettings, now: float) -> float:
    """When a job's life ends, in Unix seconds. Raises `InvalidJob`."""
    named = options.keys() & {"expires_at", "expires_in_seconds"}
    if len(named) > 1:
        raise InvalidJob("expires_at and expires_in_seconds exclude each other: leave one out")
    name = next(iter(named), "expires_in_seconds")
    given: object = options.get(name, settings.job_lifetime_seconds)
    if not isinstance(given, (int, float)):
        raise InvalidJob(f"{name} must be a number of seconds")
    life_seconds = given - now if name == "expires_at" else float(given)
    if not life_seconds > 0:
        raise InvalidJob(f"{name} must be {'in the future' if name == 'expires_at' else 'more than 0'}")
    if life_seconds > MAX_LIFE_SECONDS:
        raise InvalidJob(f"{name} is more than 100 years away: it is in seconds, not in milliseconds")
    return now + life_seconds


def lane_of(options: Options) -> Lane:
    """Raises `InvalidJob`."""
    lane = options.get("lane", "interactive")
    if lane not in get_args(Lane):
        raise InvalidJob(f"lane must be one of: {', '.join(get_args(Lane))}")
    return lane


def kept_seconds(message: JobMessage, settings: ProducerSettings) -> int:
    """How long a job's record stays."""
    return int(message.expires_at - message.enqueued_at) + settings.result_ttl_seconds


def packs(messages: Iterable[JobMessage]) -> Iterator[list[JobMessage]]:
    """Jobs in groups of a message each, by number and by size. A tenant and a lane for all."""
    pack: list[JobMessage] = []
    chars = 0
    for message in messages:
        size = len(repr(message.args))
        if pack and (len(pack) == PACK_JOBS or chars + size > PACK_CHARS):
            yield pack
            pack, chars = [], 0
        pack.append(message)
        chars += size
    if pack:
        yield pack


def message_of(args: Args[Any], options: Options, settings: ProducerSettings, now: float) -> JobMessage:
    """The message for a job: its key, fingerprint and id. Raises `InvalidJob`."""
    own_key = options.get("idempotency_key")
    fresh = options.get("fresh", False)
    if fresh and own_key is not None:
        raise InvalidJob("fresh=True and idempotency_key exclude each other: leave one out")
    if own_key is not None and (not 1 <= len(own_key) <= 200 or "\0" in own_key):
        raise InvalidJob("idempotency_key must have 1 to 200 characters, NUL not among them")
    values = args.model_dump(mode="json")
    work = keys.fingerprint_of(args.kind, values, options.get("model"))
    key = keys.job_key(settings.tenant, f"fresh:{uuid.uuid4()}" if fresh else own_key, work)
    return JobMessage(
        id=keys.job_id(key),
        key=key,
        fingerprint=work,
        kind=args.kind,
        args=values,
        model=options.get("model"),
        tenant=settings.tenant,
        lane=lane_of(options),
        enqueued_at=now,
        expires_at=expiry(options, settings, now),
    )
