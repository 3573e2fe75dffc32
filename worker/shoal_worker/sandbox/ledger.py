"""What was asked and what it cost: the recorded requests and the bill. Bounded: old requests are forgotten."""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from shoal_worker.sandbox.catalogue import DATED_MODEL, PROVIDER
from shoal_worker.sandbox.metering import Usage

REQUESTS_KEPT = 200_000
NO_USAGE = Usage()


@dataclass(slots=True)
class Record:
    """One request to the chat endpoint, from its arrival on. `status` is None while it is in flight."""

    generation_id: str
    arrived_at: float
    body_digest: bytes
    body: bytes | None = None
    custom_id: str | None = None
    schema_name: str | None = None
    status: int | None = None
    fault: str | None = None
    usage: Usage = field(default=NO_USAGE)
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    billed: bool = False
    replayed: bool = False
    client_disconnected: bool = False
    finished_at: float | None = None
    lookups: int = 0

    def summary(self) -> dict[str, Any]:
        """What `GET /sandbox/requests` tells of it."""
        told: dict[str, Any] = {
            "generation_id": self.generation_id,
            "status": self.status,
            "fault": self.fault,
            "schema_name": self.schema_name,
            "custom_id": self.custom_id,
            "usage": self.usage.block(),
            "cost_usd": self.usage.cost_usd if self.billed else 0.0,
            "billed": self.billed,
            "replayed": self.replayed,
            "client_disconnected": self.client_disconnected,
            "arrived_at": self.arrived_at,
            "finished_at": self.finished_at,
            "body_sha256": self.body_digest.hex(),
        }
        if self.body is not None:
            told["body"] = self.body.decode("utf-8", "replace")
        return told


class Ledger:
    """The records in order of arrival, and sums over them.

    Sums keep counting when a record is forgotten; the count by custom id covers the requests still kept.
    """

    def __init__(self, requests_kept: int = REQUESTS_KEPT) -> None:
        self.requests_kept = requests_kept
        self.records: deque[Record] = deque()
        self._by_generation: dict[str, Record] = {}
        self._billed_by_custom_id: Counter[str] = Counter()
        self.requests = self.billed_calls = self.in_flight = self.most_in_flight = 0
        self.cost_usd = 0.0

    def open(self, generation_id: str, body: bytes, now: float, *, keep_body: bool) -> Record:
        """A request has arrived."""
        record = Record(generation_id, now, sha256(body).digest(), body if keep_body else None)
        if len(self.records) >= self.requests_kept:
            self._forget(self.records.popleft())
        self.records.append(record)
        self._by_generation[generation_id] = record
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return record

    def bill(self, record: Record, usage: Usage) -> None:
        """The model has answered: this is charged, whoever still listens."""
        record.billed, record.usage = True, usage
        self.billed_calls += 1
        self.cost_usd += usage.cost_usd
        if record.custom_id is not None:
            self._billed_by_custom_id[record.custom_id] += 1

    def close(self, record: Record, now: float) -> None:
        """A request has ended, one way or another."""
        record.finished_at = now
        self.in_flight -= 1

    def generation(self, generation_id: str) -> dict[str, Any] | None:
        """A finished generation as `GET /generation` tells it; None the first time it is asked for."""
        record = self._by_generation.get(generation_id)
        if record is None or not (record.billed or record.replayed):
            return None
        record.lookups += 1
        return None if record.lookups == 1 else _generation_card(record)

    def summary(self) -> dict[str, Any]:
        """What `GET /sandbox/bill` tells."""
        return {
            "requests": self.requests,
            "billed_calls": self.billed_calls,
            "cost_usd": round(self.cost_usd, 10),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "billed_by_custom_id": dict(self._billed_by_custom_id),
        }

    def _forget(self, record: Record) -> None:
        self._by_generation.pop(record.generation_id, None)
        if record.billed and record.custom_id is not None:
            self._billed_by_custom_id[record.custom_id] -= 1
            if not self._billed_by_custom_id[record.custom_id]:
                del self._billed_by_custom_id[record.custom_id]


def _generation_card(record: Record) -> dict[str, Any]:
    usage = record.usage
    spent_ms = round(((record.finished_at or record.arrived_at) - record.arrived_at) * 1000)
    return {
        "id": record.generation_id,
        "upstream_id": f"resp_{record.generation_id[-20:]}",
        "request_id": f"req-{record.generation_id[4:]}",
        "model": DATED_MODEL,
        "provider_name": PROVIDER,
        "created_at": datetime.fromtimestamp(record.arrived_at, UTC).isoformat(),
        "streamed": False,
        "cancelled": False,
        "finish_reason": record.finish_reason,
        "native_finish_reason": record.native_finish_reason,
        "tokens_prompt": usage.prompt_tokens,
        "tokens_completion": usage.completion_tokens,
        "native_tokens_prompt": usage.prompt_tokens,
        "native_tokens_completion": usage.completion_tokens,
        "native_tokens_reasoning": usage.reasoning_tokens,
        "native_tokens_cached": usage.cached_tokens,
        "total_cost": usage.cost_usd,
        "usage": usage.cost_usd,
        "cache_discount": None,
        "upstream_inference_cost": usage.cost_usd,
        "is_byok": False,
        "latency": spent_ms,
        "generation_time": spent_ms,
        "moderation_latency": None,
        "num_search_results": None,
        "web_search_engine": None,
        "service_tier": "default",
        "session_id": None,
        "external_user": None,
        "provider_responses": [{"provider_name": PROVIDER, "status": 200}],
    }
