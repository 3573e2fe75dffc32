"""The model client over real connections: against the sandbox, and against servers that misbehave in other ways."""

import asyncio
import json
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from shoal_worker.errors import (
    ConnectFailed,
    ContentRefused,
    DeadlineExceeded,
    EmptyAnswer,
    LimitOrigin,
    OutOfMoney,
    PauseError,
    ProviderUnavailable,
    RateLimited,
    ReplyLost,
    RequestRefused,
    Unauthorized,
    WorkerError,
)
from shoal_worker.lookups import KeyStatus
from shoal_worker.openrouter import Gateway, OpenRouter, chat_body
from shoal_worker.ports import ChatReply, ChatRequest, Prompt
from shoal_worker.replies import Prices
from shoal_worker.sandbox.chat import SANDBOX
from shoal_worker.sandbox.faults import Fault
from shoal_worker.sandbox.scenario import Scenario
from shoal_worker.sandbox.server import make_app

SCHEMA = {
    "type": "object",
    "properties": {
        "evidence": {"type": "string"},
        "label": {"type": "string", "enum": ["praise", "complaint"]},
        "confidence": {"type": "number"},
    },
    "required": ["evidence", "label", "confidence"],
    "additionalProperties": False,
}
KEY = SecretStr("sk-or-v1-of-a-test")
ANSWER = {
    "id": "gen-1",
    "model": "m",
    "choices": [{"finish_reason": "stop", "message": {"content": "{}"}}],
    "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 0},
}


def ask(text: str = "Great service, thank you.", deadline_seconds: float = 30.0, job: str = "job-1") -> ChatRequest:
    system = "Choose the label that fits.\n- praise\n- complaint"
    user = f"<text-1a2b3c4d>\n{text}\n</text-1a2b3c4d>"
    prompt = Prompt(system, user, "shoal_classify", SCHEMA, 300)
    return ChatRequest(prompt, "openai/gpt-5.4-nano", job, deadline_seconds)


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(base_url: str, **settings: Any) -> AsyncIterator[OpenRouter]:
    model = OpenRouter(Gateway(base_url=base_url, **{"api_key": KEY, **settings}))
    try:
        yield model
    finally:
        await model.aclose()


async def complete(base_url: str, request: ChatRequest, **settings: Any) -> ChatReply:
    async with client(base_url, **settings) as model:
        return await model.complete(request)


async def from_sandbox(request: ChatRequest, **settings: Any) -> ChatReply:
    async with serving(make_app(Scenario())) as base_url:
        return await complete(base_url, request, **settings)


def failing(work: Coroutine[Any, Any, object]) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        asyncio.run(work)
    return caught.value


def faulty(fault: str, deadline_seconds: float = 30.0) -> ChatRequest:
    return ask(f"Great service. [[fault:{fault}]]", deadline_seconds)


# --- Answers and faults of the sandbox -------------------------------------------------------------------------


def test_an_answer_comes_with_its_usage_cost_and_origin() -> None:
    reply = asyncio.run(from_sandbox(ask()))
    assert json.loads(reply.content)["label"] in {"praise", "complaint"}
    assert reply.finish_reason == "stop"
    assert reply.generation_id.startswith("gen-")
    assert reply.model.startswith("openai/gpt-5.4-nano")
    assert reply.sandbox
    assert reply.usage.calls == 1
    assert reply.usage.cost_usd > 0


FAULTS: dict[Fault, type[WorkerError]] = {
    Fault.BAD_REQUEST: RequestRefused,
    Fault.UNAUTHORIZED: Unauthorized,
    Fault.OUT_OF_CREDITS: OutOfMoney,
    Fault.WEIGHT_EXCEEDS_BUDGET: OutOfMoney,
    Fault.IN_FLIGHT_BUDGET: RateLimited,
    Fault.KEY_LIMIT: OutOfMoney,
    Fault.MODERATION: ContentRefused,
    Fault.GUARDRAIL_PATTERNS: ContentRefused,
    Fault.BUDGET_403: OutOfMoney,
    Fault.REGION_403: ProviderUnavailable,
    Fault.NOT_FOUND: RequestRefused,
    Fault.REQUEST_TIMEOUT_408: ProviderUnavailable,
    Fault.PAYLOAD_TOO_LARGE: RequestRefused,
    Fault.UNPROCESSABLE: RequestRefused,
    Fault.UPSTREAM_429: RateLimited,
    Fault.UPSTREAM_429_HTTP_DATE: RateLimited,
    Fault.UPSTREAM_429_NO_HEADER: RateLimited,
    Fault.ADMISSION_429: RateLimited,
    Fault.CAPACITY_EXHAUSTED_429: RateLimited,
    Fault.PLATFORM_429: RateLimited,
    Fault.SERVER_500: ProviderUnavailable,
    Fault.STRING_CODE_500: ProviderUnavailable,
    Fault.BAD_GATEWAY_502: ProviderUnavailable,
    Fault.UNAVAILABLE_503: RateLimited,
    Fault.GATEWAY_TIMEOUT_504: ProviderUnavailable,
    Fault.TIMEOUT_524: ProviderUnavailable,
    Fault.OVERLOADED_529: ProviderUnavailable,
    Fault.HTML_502: ProviderUnavailable,
    Fault.HTML_524: ProviderUnavailable,
    Fault.ERROR_200: ProviderUnavailable,
    Fault.NESTED_ERROR_200: ProviderUnavailable,
    Fault.NULL_CHOICES: ProviderUnavailable,
    Fault.CHOICE_ERROR: ProviderUnavailable,
    Fault.WHITESPACE_ONLY: ReplyLost,
    Fault.CONTENT_FILTER: ContentRefused,
    Fault.REFUSAL: ContentRefused,
    Fault.EMPTY_STOP: EmptyAnswer,
    Fault.CUT_BODY: ReplyLost,
    Fault.CONNECTION_RESET: ReplyLost,
}
NAMED_WAIT = {
    Fault.IN_FLIGHT_BUDGET,
    Fault.BUDGET_403,
    Fault.UPSTREAM_429,
    Fault.UPSTREAM_429_HTTP_DATE,
    Fault.ADMISSION_429,
    Fault.CAPACITY_EXHAUSTED_429,
    Fault.PLATFORM_429,
    Fault.UNAVAILABLE_503,
}
ORIGINS = {
    Fault.IN_FLIGHT_BUDGET: LimitOrigin.IN_FLIGHT,
    Fault.UPSTREAM_429: LimitOrigin.UPSTREAM,
    Fault.UPSTREAM_429_HTTP_DATE: LimitOrigin.UPSTREAM,
    Fault.UPSTREAM_429_NO_HEADER: LimitOrigin.UPSTREAM,
    Fault.CAPACITY_EXHAUSTED_429: LimitOrigin.UPSTREAM,
    Fault.ADMISSION_429: LimitOrigin.ADMISSION,
    Fault.PLATFORM_429: LimitOrigin.PLATFORM,
    Fault.UNAVAILABLE_503: LimitOrigin.OVERLOAD,
}
ANSWERED = {
    Fault.MISSING_USAGE_COST: "stop",
    Fault.PROVIDER_NESTED_200: "stop",
    Fault.LENGTH_EMPTY: "length",
    Fault.DRIP_WHITESPACE: "stop",
    Fault.SLOW_BODY: "stop",
    Fault.SLOW_HEADERS: "stop",
}


@pytest.mark.parametrize(("fault", "expected"), FAULTS.items(), ids=[fault.value for fault in FAULTS])
def test_a_fault_becomes_the_error_that_says_what_to_do(fault: Fault, expected: type[WorkerError]) -> None:
    error = failing(from_sandbox(faulty(f"{fault}:60")))
    assert type(error) is expected
    assert error.usage.calls == 1
    if isinstance(error, PauseError):
        assert (error.after_seconds is not None) == (fault in NAMED_WAIT)
        assert error.after_seconds is None or 50 < error.after_seconds <= 62
    if isinstance(error, RateLimited):
        assert error.origin is ORIGINS[fault]


@pytest.mark.parametrize(("fault", "finish_reason"), ANSWERED.items(), ids=[fault.value for fault in ANSWERED])
def test_an_odd_or_slow_answer_is_still_an_answer(fault: Fault, finish_reason: str) -> None:
    reply = asyncio.run(from_sandbox(faulty(f"{fault}:0.6")))
    assert reply.finish_reason == finish_reason
    assert reply.usage.cost_usd > 0


@pytest.mark.parametrize("fault", [Fault.DRIP_WHITESPACE, Fault.SLOW_BODY, Fault.SLOW_HEADERS])
def test_the_deadline_is_total_whatever_trickles_in(fault: Fault) -> None:
    error = failing(from_sandbox(faulty(f"{fault}:60", deadline_seconds=0.3)))
    assert type(error) is DeadlineExceeded
    assert error.usage.calls == 1
    assert ("generation gen-" in error.reason) == (fault is not Fault.SLOW_HEADERS)


def test_a_question_asked_again_is_answered_from_the_response_cache_free_of_charge() -> None:
    async def twice() -> tuple[ChatReply, ChatReply, int]:
        app = make_app(Scenario())
        async with serving(app) as base_url, client(base_url, response_cache=True) as model:
            first, second = await model.complete(ask()), await model.complete(ask())
            return first, second, len(app[SANDBOX].ledger.records)

    first, second, requests = asyncio.run(twice())
    assert requests == 2
    assert first.content == second.content
    assert first.usage.cost_usd > 0
    assert second.usage.cost_usd == 0


# --- What is sent ----------------------------------------------------------------------------------------------


class Recorder:
    """A gateway that answers everything alike and keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.app = web.Application()
        self.app.router.add_route("*", "/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.path, headers, await request.read()))
        response = web.json_response(ANSWER)
        response.set_cookie("session", "of-the-proxy")
        return response


def sent(*requests: ChatRequest, **settings: Any) -> list[tuple[str, dict[str, str], bytes]]:
    async def send() -> Recorder:
        recorder = Recorder()
        async with serving(recorder.app) as base_url, client(base_url, **settings) as model:
            for request in requests:
                await model.complete(request)
        return recorder

    return asyncio.run(send()).requests


def test_a_request_holds_what_the_provider_needs_and_nothing_else() -> None:
    ((path, headers, body),) = sent(ask(), provider_only=("openai",), app_title="Shoal", app_url="https://a.example")
    assert path == "/api/v1/chat/completions"
    assert headers["authorization"] == "Bearer sk-or-v1-of-a-test"
    assert (headers["http-referer"], headers["x-openrouter-title"]) == ("https://a.example", "Shoal")
    assert "x-openrouter-cache" not in headers
    told = json.loads(body)
    assert [line["role"] for line in told.pop("messages")] == ["system", "user"]
    assert told == {
        "model": "openai/gpt-5.4-nano",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "shoal_classify", "strict": True, "schema": SCHEMA},
        },
        "max_completion_tokens": 300,
        "reasoning": {"effort": "none"},
        "metadata": {"custom_id": "job-1"},
        "provider": {"only": ["openai"]},
    }


def test_another_gateway_gets_none_of_openrouters_own_fields() -> None:
    ((_, headers, body),) = sent(
        ask(),
        openrouter_fields=False,
        provider_only=("openai",),
        app_title="Shoal",
        response_cache=True,
        cap_field="max_tokens",
        api_key=None,
    )
    assert set(json.loads(body)) == {"model", "messages", "response_format", "max_tokens"}
    assert "authorization" not in headers
    assert not [name for name in headers if name.startswith(("x-", "http-"))]


def test_the_same_prompt_makes_the_same_bytes_and_another_job_does_not() -> None:
    first, again, other = (body for _, _, body in sent(ask(), ask(), ask(job="job-2")))
    assert first == again == chat_body(ask(), Gateway())
    assert first != other


def test_cookies_of_a_proxy_are_not_sent_back() -> None:
    assert all("cookie" not in headers for _, headers, _ in sent(ask(), ask()))


def test_text_of_any_characters_arrives_as_it_was() -> None:
    text = "Grüße 🐟 \u2028 \x00 \ud83d"
    ((_, _, body),) = sent(ask(text))
    assert text in json.loads(body)["messages"][1]["content"]


def test_prices_of_the_settings_count_where_a_reply_names_no_cost() -> None:
    async def go() -> ChatReply:
        async with serving(Recorder().app) as base_url:
            return await complete(base_url, ask())

    assert asyncio.run(go()).usage.cost_usd == pytest.approx(0.20)


def test_neither_the_key_nor_the_text_is_ever_logged_or_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    error = failing(from_sandbox(ask("Ilsabill is unwell. [[fault:moderation]]")))
    asyncio.run(from_sandbox(ask("Ilsabill is unwell.")))
    told = caplog.text + repr(error) + repr(Gateway(api_key=KEY))
    assert "Ilsabill" not in told
    assert KEY.get_secret_value() not in told


# --- Connections -----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def with_raw_server(
    handler: Handler, scheme: str = "http", request: ChatRequest | None = None, **settings: Any
) -> ChatReply:
    """Ask a server that is nothing but a handler of bytes."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        return await complete(f"{scheme}://127.0.0.1:{port}/api/v1", request or ask(), **settings)
    finally:
        server.close()


async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"this is no HTTP\r\n\r\n")
    await writer.drain()


async def answer_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await writer.drain()


async def pack_badly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope")
    await writer.drain()


async def break_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\nzz\r\n")
    await writer.drain()


async def keep_silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(65_536):
        pass


def test_with_nobody_listening_nothing_was_sent_and_nothing_is_billed() -> None:
    error = failing(complete(f"http://127.0.0.1:{free_port()}/api/v1", ask()))
    assert type(error) is ConnectFailed
    assert error.usage.calls == 0


@pytest.mark.parametrize("handler", [hang_up, talk_nonsense, pack_badly, break_chunks])
def test_whatever_goes_wrong_after_sending_is_a_lost_reply(handler: Handler) -> None:
    error = failing(with_raw_server(handler))
    assert type(error) is ReplyLost
    assert error.usage.calls == 1


def test_a_reply_lost_after_its_headers_names_its_generation() -> None:
    assert ", generation gen-" in failing(from_sandbox(faulty(Fault.CUT_BODY))).reason


def test_a_server_without_tls_behind_an_https_address_is_a_failed_connection() -> None:
    error = failing(with_raw_server(answer_plainly, scheme="https"))
    assert type(error) is ConnectFailed


def test_a_handshake_that_never_ends_is_a_failed_connection_and_not_a_lost_reply() -> None:
    error = failing(with_raw_server(keep_silent, scheme="https", connect_seconds=0.2))
    assert type(error) is ConnectFailed


def test_a_server_that_never_answers_is_left_at_the_deadline() -> None:
    error = failing(with_raw_server(keep_silent, request=ask(deadline_seconds=0.2)))
    assert type(error) is DeadlineExceeded


def test_a_cancelled_call_ends_at_once_and_leaves_the_client_usable() -> None:
    async def go() -> ChatReply:
        arrived = asyncio.Event()
        recorder = Recorder()

        @web.middleware
        async def first_one_hangs(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if not arrived.is_set():
                arrived.set()
                await asyncio.Event().wait()
            return await handler(request)

        recorder.app.middlewares.append(first_one_hangs)
        async with serving(recorder.app) as base_url, client(base_url) as model:
            call = asyncio.create_task(model.complete(ask()))
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return await model.complete(ask())

    assert asyncio.run(go()).finish_reason == "stop"


def test_more_than_a_thousand_calls_are_on_the_wire_at_once() -> None:
    """The server answers nobody before all have arrived."""
    calls = 1_100
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def go() -> list[ChatReply]:
        everybody = asyncio.Barrier(calls)

        async def answer(request: web.Request) -> web.Response:
            await request.read()
            await everybody.wait()
            return web.json_response(ANSWER)

        app = web.Application()
        app.router.add_post("/api/v1/chat/completions", answer)
        async with serving(app) as base_url, client(base_url, max_connections=calls) as model:
            return await asyncio.gather(*(model.complete(ask(job=f"job-{n}")) for n in range(calls)))

    assert len(asyncio.run(go())) == calls


# --- The key ---------------------------------------------------------------------------------------------------


def test_a_good_key_tells_what_it_has_spent() -> None:
    async def go() -> None:
        async with serving(make_app(Scenario())) as base_url, client(base_url) as model:
            assert await model.check_key() == KeyStatus(is_valid=True, limit_remaining_usd=None, usage_usd=0.0)
            spent = (await model.complete(ask())).usage.cost_usd
            assert (await model.check_key()).usage_usd == pytest.approx(spent)

    asyncio.run(go())


def test_a_bad_key_is_told_and_not_raised() -> None:
    async def go() -> None:
        async with serving(make_app(Scenario())) as base_url, client(base_url, api_key=None) as model:
            assert not (await model.check_key()).is_valid

    asyncio.run(go())


def test_a_key_tells_what_its_limit_leaves_and_is_refused_when_that_is_spent() -> None:
    async def go() -> None:
        async with serving(make_app(Scenario(key_limit_usd=1e-6))) as base_url, client(base_url) as model:
            assert (await model.check_key()).limit_remaining_usd == 1e-6
            assert (await model.complete(ask())).usage.cost_usd > 1e-6
            assert (await model.check_key()).limit_remaining_usd == 0.0
            with pytest.raises(OutOfMoney):
                await model.complete(ask())

    asyncio.run(go())


def test_a_disabled_key_is_refused_everywhere() -> None:
    async def go() -> None:
        async with serving(make_app(Scenario(key_is_refused=True))) as base_url, client(base_url) as model:
            assert not (await model.check_key()).is_valid
            with pytest.raises(Unauthorized):
                await model.complete(ask())

    asyncio.run(go())


def test_a_model_is_looked_up_in_the_catalogue() -> None:
    async def go() -> None:
        async with serving(make_app(Scenario())) as base_url, client(base_url) as model:
            card = await model.model_card("openai/gpt-5.4-nano")
            assert card is not None
            assert card.prices == Prices()
            assert card.parameters is not None
            assert "structured_outputs" in card.parameters
            assert await model.model_card("acme/none") is None

    asyncio.run(go())


def test_a_key_of_another_gateway_is_tried_on_its_list_of_models() -> None:
    async def go() -> str:
        recorder = Recorder()
        async with serving(recorder.app) as base_url, client(base_url, openrouter_fields=False) as model:
            assert (await model.check_key()).is_valid
        return recorder.requests[0][0]

    assert asyncio.run(go()) == "/api/v1/models"


def test_a_key_cannot_be_checked_with_nobody_listening() -> None:
    async def go() -> None:
        async with client(f"http://127.0.0.1:{free_port()}/api/v1") as model:
            await model.check_key()

    assert type(failing(go())) is ConnectFailed
