"""The life of a chat request.

1. It is recorded and, when it is not valid, refused.
2. The response cache may answer it at once, free of charge.
3. A fault may be asked for: by header, by a marker in the text, by the scenario.
4. It must find room in the in-flight budget and in the provider's capacity.
5. A fault that stands in the answer's place ends it here.
6. The model's time passes. Whoever leaves now does not stop it.
7. It is answered and billed.
8. The answer is delivered.
"""

import asyncio
import time
from dataclasses import dataclass
from random import Random

from aiohttp import web

from shoal_worker.sandbox import delivery
from shoal_worker.sandbox.answers import answer_value, content_of
from shoal_worker.sandbox.completions import Completion, completion_body, completion_saying, generation_id
from shoal_worker.sandbox.faults import (
    DEFAULT_SECONDS,
    FAULT_HEADER,
    Fault,
    FaultCall,
    UnknownFaultError,
    call_for_turn,
    fault_in_header,
    faults_in_text,
)
from shoal_worker.sandbox.ledger import NO_USAGE, Ledger, Record
from shoal_worker.sandbox.metering import BYTES_PER_TOKEN, Capacity, InFlightBudget, PrefixMemory, Usage
from shoal_worker.sandbox.replay import CacheWish, ReplayCache, Stored, cache_wish, hit_headers
from shoal_worker.sandbox.replies import JSON, Refused, error, in_flight_budget_full, scripted, upstream_full
from shoal_worker.sandbox.scenario import Playback, Scenario
from shoal_worker.sandbox.spoilage import spoiled
from shoal_worker.sandbox.validation import Ask, read_ask

#: A hold on the in-flight budget outlives its request by this much.
SETTLE_SECONDS = 0.2
_TURNS_KEPT = 200_000
_Counted = tuple[str | None, tuple[FaultCall, ...]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A valid request under way. It keeps the ledger it arrived in, whatever is reset meanwhile."""

    request: web.Request
    ask: Ask
    record: Record
    ledger: Ledger
    call: FaultCall | None
    wish: CacheWish | None


class Sandbox:
    """One offline OpenRouter: its scenario, and everything it remembers."""

    def __init__(self, scenario: Scenario) -> None:
        self._first_scenario = scenario
        self._chance = Random()
        self.reset()

    def reset(self) -> None:
        """Forget everything, and play the first scenario from its beginning. What is under way still ends."""
        self.ledger = Ledger()
        self.cache = ReplayCache()
        self.prefixes = PrefixMemory()
        self.budget = InFlightBudget()
        self.capacity = Capacity()
        self._turns: dict[_Counted, int] = {}
        self.play(self._first_scenario)

    def play(self, scenario: Scenario) -> None:
        self.playback = Playback(scenario, time.monotonic())

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /chat/completions."""
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return delivery.plain_response(error(413, "Request payload too large"))
        now, ledger = time.time(), self.ledger
        keep_body = self.playback.scenario.keep_bodies
        record = ledger.open(generation_id(now, self._chance), body, now, keep_body=keep_body)
        try:
            return await self._serve(request, body, record, ledger)
        except Refused as refused:
            record.status = refused.reply.status
            return delivery.plain_response(refused.reply, {"X-Generation-Id": record.generation_id})
        finally:
            record.client_disconnected = delivery.has_left(request) and record.fault not in _CUT_HERE
            ledger.close(record, time.time())

    async def _serve(self, request: web.Request, body: bytes, record: Record, ledger: Ledger) -> web.StreamResponse:
        check_key(request)
        ask = read_ask(body)
        record.custom_id, record.schema_name = ask.custom_id, ask.schema_name
        wish = cache_wish(request.headers, record.body_digest)
        stored = self.cache.find(wish, time.time()) if wish else None
        if stored is not None:
            return _replayed(stored, record)
        call = self._fault(request, ask, record)
        exchange = Exchange(request, ask, record, ledger, call, wish)
        budget, held_usd = self.budget, self._hold(ask)
        try:
            if not self.capacity.take(self.playback.scenario.capacity_per_second, time.monotonic()):
                raise Refused(upstream_full())
            return await self._answered(exchange)
        finally:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, budget.release, held_usd)

    def _fault(self, request: web.Request, ask: Ask, record: Record) -> FaultCall | None:
        by_scenario = self.playback.next_fault(time.monotonic())
        header = request.headers.get(FAULT_HEADER)
        try:
            markers = tuple(faults_in_text(ask.user))
            by_request = fault_in_header(header) if header is not None else None
        except UnknownFaultError as unknown:
            raise Refused(error(400, str(unknown))) from None
        if by_request is None and markers:
            by_request = call_for_turn(markers, self._turn((ask.custom_id, markers)))
        limit_usd = self.playback.scenario.key_limit_usd
        spent = FaultCall(Fault.KEY_LIMIT) if limit_usd is not None and self.ledger.cost_usd >= limit_usd else None
        call = spent or by_request or by_scenario
        record.fault = None if call is None else call.fault.value
        return call

    def _turn(self, counted: _Counted) -> int:
        """How many requests of this custom id with these markers came before."""
        turn = self._turns.get(counted, 0)
        if turn == 0 and len(self._turns) >= _TURNS_KEPT:
            del self._turns[next(iter(self._turns))]
        self._turns[counted] = turn + 1
        return turn

    def _hold(self, ask: Ask) -> float:
        limit_usd = self.playback.scenario.in_flight_budget_usd
        held_usd = self.budget.hold(_prompt_tokens(ask), ask.max_completion_tokens, limit_usd)
        if held_usd is None:
            raise Refused(in_flight_budget_full(DEFAULT_SECONDS))
        return held_usd

    async def _answered(self, exchange: Exchange) -> web.StreamResponse:
        call, record = exchange.call, exchange.record
        if call is not None:
            await self._refuse(call, record)
            if call.fault is Fault.CONNECTION_RESET:
                return delivery.reset_connection(exchange.request)
        await self._model_time()
        now = time.time()
        completion = _completion(exchange.ask, call)
        usage = Usage(
            prompt_tokens=_prompt_tokens(exchange.ask),
            cached_tokens=self.prefixes.cached_tokens(exchange.ask.prefix),
            completion_tokens=completion.completion_tokens,
            reasoning_tokens=completion.reasoning_tokens,
        )
        _note_answer(record, completion)
        exchange.ledger.bill(record, usage)
        body = completion_body(completion, usage, record.generation_id, now, call.fault if call else None)
        return await self._delivered(exchange, completion, body)

    async def _delivered(self, exchange: Exchange, completion: Completion, body: bytes) -> web.StreamResponse:
        headers = {"X-Generation-Id": exchange.record.generation_id}
        if exchange.wish is not None:
            headers["X-OpenRouter-Cache-Status"] = "MISS"
        response = await delivery.deliver(exchange.request, body, headers, exchange.call)
        if exchange.wish is not None and not delivery.has_left(exchange.request):
            self.cache.store(exchange.wish, completion, exchange.record.generation_id, time.time())
        return response

    async def _refuse(self, call: FaultCall, record: Record) -> None:
        """End the request here when the fault stands in the answer's place."""
        reply = scripted(call, record.generation_id, time.time())
        if reply is None:
            return
        if reply.status == 200:
            await self._model_time()
        raise Refused(reply)

    async def _model_time(self) -> None:
        seconds = self.playback.latency_seconds()
        if seconds:
            await asyncio.sleep(seconds)


SANDBOX = web.AppKey("sandbox", Sandbox)
#: Faults that close the connection themselves: the client did not leave.
_CUT_HERE = frozenset({Fault.CONNECTION_RESET, Fault.CUT_BODY})


def check_key(request: web.Request) -> None:
    """Any key is good, as long as there is one and the scenario refuses none. It is neither stored nor logged."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Refused(error(401, "Missing Authentication header"))
    if request.app[SANDBOX].playback.scenario.key_is_refused:
        raise Refused(error(401, "User not found."))


def _replayed(stored: Stored, record: Record) -> web.StreamResponse:
    now = time.time()
    record.replayed = True
    _note_answer(record, stored.completion)
    body = completion_body(stored.completion, NO_USAGE, record.generation_id, now, None)
    headers = delivery.MARK | hit_headers(stored, now) | {"X-Generation-Id": record.generation_id}
    return web.Response(body=body, headers=headers, content_type=JSON)


def _note_answer(record: Record, completion: Completion) -> None:
    record.status = 200
    record.finish_reason = completion.finish_reason
    record.native_finish_reason = completion.native_finish_reason


def _prompt_tokens(ask: Ask) -> int:
    return max(1, ask.prompt_bytes // BYTES_PER_TOKEN)


def _completion(ask: Ask, call: FaultCall | None) -> Completion:
    value = answer_value(ask)
    completion = completion_saying(content_of(value), ask.max_completion_tokens)
    return completion if call is None else spoiled(call.fault, value, completion)
