"""The model behind HTTP: OpenRouter, or any gateway that speaks the same chat API. The only module that knows httpx.

One call is one POST. Slow replies are padded with white space for as long as they take, so that no read timeout ever
fires: the deadline is total, over sending and reading. What a reply means is decided in `replies.py`.

httpx runs over aiohttp's connector, and requests go straight to httpx's transport: its client would look through a
cookie jar for each reply, and its own pool through every connection for each request.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict
from pydantic import SecretStr

from shoal.jobs import Usage
from shoal_worker.errors import ConnectFailed, DeadlineExceeded, ReplyLost, Unauthorized, WorkerError
from shoal_worker.lookups import KeyStatus, ModelCard, read_key, read_models
from shoal_worker.ports import ChatReply, ChatRequest, Settlement
from shoal_worker.refusals import mapping
from shoal_worker.replies import HttpReply, Prices, read_generation, read_object, read_reply

_GENERATION_HEADER = "x-generation-id"
_KEY_CHECK_SECONDS = _LOOKUP_SECONDS = 20.0
#: How long the provider keeps an answer for the case that it got lost: longer than the longest wait for a retry.
_REPLAY_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where the model is and how to speak to it.

    `openrouter_fields` False leaves out what only OpenRouter understands. `cap_field` is for older gateways,
    which read "max_tokens" only. `response_cache` has a byte-identical question answered again free of charge.
    """

    base_url: str = "https://openrouter.ai/api/v1"
    api_key: SecretStr | None = None
    app_title: str = ""
    app_url: str = ""
    prices: Prices = field(default_factory=Prices)
    provider_only: tuple[str, ...] = ()
    openrouter_fields: bool = True
    cap_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    response_cache: bool = False
    max_connections: int = 1_000
    connect_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Sending:
    """What httpx's transport reads of a request. `httpx.Request` would make its headers anew for each call."""

    method: str
    url: str
    headers: CIMultiDict[str]
    content: bytes
    extensions: dict[str, Any]


class OpenRouter:
    """Implements `ports.ChatModel` and `ports.Generations`. Connections belong to the event loop of the first call."""

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._clock = clock
        self._headers = CIMultiDict(_headers(gateway))
        self._chat_url = f"{gateway.base_url.rstrip('/')}/chat/completions"
        # /key is OpenRouter's own; other gateways show by their list of models whether they accept a key.
        check_path = "key" if gateway.openrouter_fields else "models"
        self._check_url = f"{gateway.base_url.rstrip('/')}/{check_path}"
        self._models_url = f"{gateway.base_url.rstrip('/')}/models"
        self._generation_url = httpx.URL(f"{gateway.base_url.rstrip('/')}/generation")
        self._extensions = {"timeout": {"connect": gateway.connect_seconds}}
        self._transport = _transport(gateway)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Ask once."""
        body = chat_body(request, self._gateway)
        reply = await self._exchange("POST", self._chat_url, body, request.deadline_seconds, request.on_generation)
        return read_reply(reply, asked_model=request.model, prices=self._gateway.prices, now=self._clock())

    async def check_key(self) -> KeyStatus:
        """Whether the key is good, and what it may still spend. Raises a `WorkerError` when that cannot be told."""
        reply = await self._exchange("GET", self._check_url, b"", _KEY_CHECK_SECONDS)
        try:
            return read_key(mapping(read_object(reply, now=self._clock()).get("data")))
        except Unauthorized:
            return KeyStatus(is_valid=False)

    async def model_card(self, model: str) -> ModelCard | None:
        """What the catalogue says of a model; None where it has none such. Raises a `WorkerError`."""
        reply = await self._exchange("GET", self._models_url, b"", _LOOKUP_SECONDS)
        return read_models(read_object(reply, now=self._clock()).get("data"), model)

    async def charged(self, generation_id: str) -> Settlement | None:
        """What a generation was charged. Raises a `WorkerError` when that cannot be told."""
        url = str(self._generation_url.copy_merge_params({"id": generation_id}))
        reply = await self._exchange("GET", url, b"", _LOOKUP_SECONDS)
        return read_generation(reply, self._gateway.prices, now=self._clock())

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _exchange(
        self,
        method: str,
        url: str,
        body: bytes,
        deadline_seconds: float,
        on_generation: Callable[[str], None] | None = None,
    ) -> HttpReply:
        request: Any = Sending(method, url, self._headers, body, self._extensions)
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout(deadline_seconds):
                response = await self._transport.handle_async_request(request)
                try:
                    if on_generation:
                        on_generation(response.headers.get(_GENERATION_HEADER, ""))
                    return HttpReply(response.status_code, response.headers, await response.aread())
                finally:
                    await response.aclose()
        except TimeoutError:
            reason = f"no whole reply within {deadline_seconds:g} s{_generation(response)}"
            raise DeadlineExceeded(reason, Usage(calls=1)) from None
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            raise _transport_error(error, response) from None


_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def chat_body(request: ChatRequest, gateway: Gateway) -> bytes:
    """The request as bytes; the same prompt makes the same bytes, which is what a replay is recognised by."""
    prompt = request.prompt
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": prompt.schema_name, "strict": True, "schema": prompt.schema},
        },
        gateway.cap_field: prompt.max_completion_tokens,
    }
    if gateway.openrouter_fields:
        body["reasoning"] = {"effort": "none"}
        body["metadata"] = {"custom_id": request.custom_id[:512]} | ({"round": request.round} if request.round else {})
        if gateway.provider_only:
            body["provider"] = {"only": list(gateway.provider_only)}
    # Half a surrogate pair becomes its JSON escape, which is no reason to fail.
    return _COMPACT.encode(body).encode("utf-8", "backslashreplace")


def _headers(gateway: Gateway) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        # Replies are small: unpacking them costs more than it saves.
        "accept-encoding": "identity",
        "user-agent": "shoal",
    }
    if gateway.api_key is not None:
        headers["authorization"] = f"Bearer {gateway.api_key.get_secret_value()}"
    if gateway.openrouter_fields:
        named: Mapping[str, str] = {"http-referer": gateway.app_url, "x-openrouter-title": gateway.app_title}
        headers |= {name: value for name, value in named.items() if value}
        if gateway.response_cache:
            headers |= {"x-openrouter-cache": "true", "x-openrouter-cache-ttl": str(_REPLAY_SECONDS)}
    return headers


def _transport(gateway: Gateway) -> AiohttpTransport:
    """The session is made at the first call, because it needs the running loop."""
    tls = httpx.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=gateway.max_connections, ssl=tls)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return AiohttpTransport(verify=tls, client=session)


def _transport_error(error: Exception, response: httpx.Response | None) -> WorkerError:
    """httpx-aiohttp calls every lost connection a `ConnectTimeout`; only aiohttp's own error tells them apart."""
    cause = error.__cause__ or error
    if isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return ConnectFailed(f"no connection: {type(cause).__name__}")
    return ReplyLost(f"connection lost: {type(cause).__name__}{_generation(response)}", Usage(calls=1))


def _generation(response: httpx.Response | None) -> str:
    """The id to look a lost reply up by, where at least the headers came."""
    generation_id = response.headers.get(_GENERATION_HEADER) if response is not None else None
    return f", generation {generation_id}" if generation_id else ""
