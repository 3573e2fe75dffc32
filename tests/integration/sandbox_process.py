"""A sandbox process, a client for it, and requests of each kind."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

import aiohttp
import pytest
from multidict import CIMultiDictProxy

T = TypeVar("T")
CHAT = "/api/v1/chat/completions"
KEY = {"Authorization": "Bearer sk-or-v1-of-a-test"}
LABELS = ["billing", "bug", "none of these"]
TEXT = "I was charged twice for one month."


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found


@dataclass(frozen=True, slots=True)
class Running:
    """A sandbox process and a client for it. Each call has a connection of its own."""

    root: str
    process: subprocess.Popen[str]

    def call(
        self, method: str, path: str, body: bytes | BytesIO | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        async def once(session: aiohttp.ClientSession) -> Answer:
            return await fetch(session, method, self.root + path, body, headers)

        return self.with_session(once)

    def with_session(self, work: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
        async def run() -> T:
            timeout = aiohttp.ClientTimeout(total=30)
            async with aiohttp.ClientSession(headers=KEY, timeout=timeout) as session:
                return await work(session)

        return asyncio.run(run())

    def chat(self, request: dict[str, Any], **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", CHAT, encoded(request), named)

    def faulty(self, fault: str, request: dict[str, Any] | None = None) -> Answer:
        return self.chat(request or classify(), X_Shoal_Sandbox_Fault=fault)

    def play(self, **scenario: Any) -> Answer:
        return self.call("POST", "/sandbox/scenario", json.dumps(scenario).encode())

    def records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/sandbox/requests").json["requests"]
        return found

    def bill(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/sandbox/bill").json
        return found

    def await_records(self, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 20
        while not holds(records := self.records()):
            assert time.monotonic() < deadline, f"never: {records}"
            time.sleep(0.02)
        return records


async def fetch(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    body: bytes | BytesIO | None,
    headers: dict[str, str] | None = None,
) -> Answer:
    async with session.request(method, url, data=body, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


def encoded(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def chat_request(user: str, name: str, schema: dict[str, Any], custom_id: str) -> dict[str, Any]:
    return {
        "model": "openai/gpt-5.4-nano",
        "messages": [{"role": "system", "content": "Do it."}, {"role": "user", "content": user}],
        "response_format": {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}},
        "max_completion_tokens": 500,
        "reasoning": {"effort": "none"},
        "metadata": {"custom_id": custom_id},
    }


def classify(text: str = TEXT, custom_id: str = "job-1") -> dict[str, Any]:
    label = {"type": "string", "enum": LABELS}
    schema = closed({"evidence": {"type": "string"}, "label": label, "confidence": {"type": "number"}})
    return chat_request(f"<text-1a2b3c4d>\n{text}\n</text-1a2b3c4d>", "shoal_classify", schema, custom_id)


def rank() -> dict[str, Any]:
    entry = closed({"id": {"type": "integer"}, "score": {"type": "number"}})
    documents = [f'<document-1a2b3c4d id="{n}">\nword {n}\n</document-1a2b3c4d>' for n in (1, 2, 3)]
    user = "\n".join(["<query-1a2b3c4d>\nword 2\n</query-1a2b3c4d>", *documents])
    return chat_request(user, "shoal_rank", closed({"ranking": {"type": "array", "items": entry}}), "job-r")


def extract() -> dict[str, Any]:
    value = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    schema = closed({"total": closed({"value": value, "quote": {"type": ["string", "null"]}})})
    return chat_request("<text-1a2b3c4d>\nThe total is $5.50.\n</text-1a2b3c4d>", "shoal_extract", schema, "job-e")


def content(answer: Answer) -> Any:
    return json.loads(answer.json["choices"][0]["message"]["content"])


@contextmanager
def running(*options: str) -> Iterator[Running]:
    command = [sys.executable, "-W", "error", "-m", "shoal_worker.sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.fullmatch(r"sandbox listening on (http://127\.0\.0\.1:\d+)/api/v1\n", line)
            assert match is not None, line
            yield Running(match[1], process)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0


@pytest.fixture(scope="module")
def process() -> Iterator[Running]:
    with running() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(process: Running) -> Running:
    """The shared process, with everything forgotten."""
    assert process.call("POST", "/sandbox/reset").status == 200
    return process
