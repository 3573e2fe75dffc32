"""The model of the benchmarks: the sandbox's wire form and one small rule, at an eighth of the sandbox's cost.

The sandbox reads, prices and remembers every request: 0.2 ms of CPU a call, on cores that the measured share. What is
compared here are queues, so all of them ask this server, which takes 0.025 ms: a protocol on uvloop that looks for
"case N" in a request and answers, after a fixed time, with the label that N stands for and with "case N" as evidence.

    GET /bench/state   what arrived and was answered, how many are in flight, how many cases were asked more than once
"""

import asyncio
import json
import re
import resource
import signal
from typing import cast

import click
import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CASE = re.compile(rb"case (\d+)")
_LABELS = ("billing", "bug", "praise")
_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Shoal-Sandbox: 1\r\n"
    "X-Generation-Id: gen-bench-%d\r\nContent-Length: %d\r\n\r\n"
)
_BODY = (
    '{"id":"gen-bench-%d","provider":"OpenAI","model":"openai/gpt-5.4-nano-20260317","object":"chat.completion",'
    '"created":1790000000,"choices":[{"index":0,"finish_reason":"stop","native_finish_reason":"completed",'
    '"logprobs":null,"message":{"role":"assistant","content":'
    '"{\\"evidence\\":\\"case %d\\",\\"label\\":\\"%s\\",\\"confidence\\":0.9}","refusal":null,"reasoning":null}}],'
    '"service_tier":"default","system_fingerprint":"shoal-sandbox","usage":{"prompt_tokens":112,'
    '"completion_tokens":21,"total_tokens":133,"cost":0.00004865,"is_byok":false,'
    '"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}'
)
_KEY = {"data": {"label": "bench", "limit": None, "limit_remaining": None, "usage": 0}}


class State:
    def __init__(self, latency_seconds: float) -> None:
        self.latency_seconds = latency_seconds
        self.arrived = self.answered = self.in_flight = self.repeated = 0
        self.cases: set[int] = set()

    def told(self) -> dict[str, int]:
        return {
            "arrived": self.arrived,
            "answered": self.answered,
            "in_flight": self.in_flight,
            "repeated": self.repeated,
        }


class Connection(asyncio.Protocol):
    """One kept-alive connection. A client sends its next request after the reply to its last."""

    transport: asyncio.Transport

    def __init__(self, state: State) -> None:
        self._state = state
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_ends = self._received.find(b"\r\n\r\n")
        if head_ends < 0:
            return
        length = _LENGTH.search(self._received, 0, head_ends)
        ends = head_ends + 4 + (int(length[1]) if length else 0)
        if len(self._received) < ends:
            return
        request, self._received = self._received[:ends], self._received[ends:]
        if request.startswith(b"POST"):
            self._ask(request, head_ends)
        else:
            told = self._state.told() if request.startswith(b"GET /bench/") else _KEY
            self._reply(0, json.dumps(told))

    def _ask(self, request: bytes, head_ends: int) -> None:
        found = _CASE.search(request, head_ends)
        assert found is not None
        case, state = int(found[1]), self._state
        state.arrived += 1
        state.in_flight += 1
        state.repeated += case in state.cases
        state.cases.add(case)
        asyncio.get_running_loop().call_later(state.latency_seconds, self._answer, case)

    def _answer(self, case: int) -> None:
        self._state.in_flight -= 1
        self._state.answered += 1
        self._reply(case, _BODY % (case, case, _LABELS[case % 3]))

    def _reply(self, case: int, body: str) -> None:
        if not self.transport.is_closing():
            self.transport.write((_HEAD % (case, len(body)) + body).encode())


async def serve(port: int, latency_seconds: float) -> None:
    loop, stop, state = asyncio.get_running_loop(), asyncio.Event(), State(latency_seconds)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=4096)
    await stop.wait()
    server.close()


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--latency-seconds", type=float, required=True)
def main(port: int, latency_seconds: float) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(serve(port, latency_seconds))


if __name__ == "__main__":
    main()
