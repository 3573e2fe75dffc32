"""The work that all do: one question to the model, its label read and checked. Knows no queue and nothing of Shoal.

`BENCH_CLIENT` names the HTTP client: `aiohttp` is httpx over aiohttp's connector, `httpx` is httpx's own pool, and
`own` gives each call a client that nobody else uses meanwhile, which spares synchronous workers the shared pool.
"""

import json
import logging
import os
from collections import deque
from typing import Any

import httpx

# Some workers write a line for each request where its level lets them, which costs more than the request.
logging.getLogger("httpx").setLevel(logging.WARNING)

LABELS = ("billing", "bug", "praise")
KEEP_SECONDS = 86_400
REDIS_URL = os.environ["BENCH_REDIS_URL"]
AT_ONCE = int(os.environ["BENCH_AT_ONCE"])
_URL = f"{os.environ['BENCH_MODEL_URL']}/chat/completions"
_CLIENT = os.environ["BENCH_CLIENT"]
_SYSTEM = "Choose one label for the text.\n- billing\n- bug\n- praise"
_SCHEMA = {
    "type": "object",
    "properties": {
        "evidence": {"type": "string"},
        "label": {"type": "string", "enum": list(LABELS)},
        "confidence": {"type": "number"},
    },
    "required": ["evidence", "label", "confidence"],
    "additionalProperties": False,
}
_OPTIONS: dict[str, Any] = {
    "timeout": 60,
    "headers": {"authorization": "Bearer bench", "accept-encoding": "identity"},
}
_LIMITS = httpx.Limits(max_connections=AT_ONCE + 10, max_keepalive_connections=AT_ONCE + 10)
_TLS = httpx.create_ssl_context()


def text_of(number: int) -> str:
    return f"I was charged twice, case {number}."


def body_of(text: str) -> dict[str, Any]:
    return {
        "model": "openai/gpt-5.4-nano",
        "messages": [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": f"<text-0a0a0a0a>\n{text}\n</text-0a0a0a0a>"},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "shoal_classify", "strict": True, "schema": _SCHEMA},
        },
        "max_completion_tokens": 200,
    }


def read(reply: httpx.Response) -> dict[str, Any]:
    """The answer out of the reply's JSON. Raises `ValueError` for a label that was not given."""
    reply.raise_for_status()
    said = json.loads(reply.json()["choices"][0]["message"]["content"])
    if said["label"] not in LABELS:
        raise ValueError("the model gave none of the labels")
    return {"label": said["label"], "evidence": said["evidence"]}


def async_client() -> httpx.AsyncClient:
    if _CLIENT == "aiohttp":
        import aiohttp
        from httpx_aiohttp import AiohttpTransport

        # The session wants the running loop, so it is made with the first request.
        def session() -> aiohttp.ClientSession:
            connector = aiohttp.TCPConnector(limit=AT_ONCE + 10)
            return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

        return httpx.AsyncClient(transport=AiohttpTransport(client=session), **_OPTIONS)
    return httpx.AsyncClient(limits=_LIMITS, **_OPTIONS)


async def ask(client: httpx.AsyncClient, text: str) -> dict[str, Any]:
    return read(await client.post(_URL, json=body_of(text)))


def sync_client() -> httpx.Client:
    return httpx.Client(limits=_LIMITS, verify=_TLS, **_OPTIONS)


_shared = sync_client()
_idle: deque[httpx.Client] = deque()


def ask_sync(text: str) -> dict[str, Any]:
    if _CLIENT != "own":
        return read(_shared.post(_URL, json=body_of(text)))
    try:
        client = _idle.pop()
    except IndexError:
        client = sync_client()
    try:
        return read(client.post(_URL, json=body_of(text)))
    finally:
        _idle.append(client)


def is_right(said: Any) -> bool:
    """Whether an answer has the label that its case stands for."""
    number = int(said["evidence"].removeprefix("case "))
    return bool(said["label"] == LABELS[number % 3])
