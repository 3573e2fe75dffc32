"""How a reply reaches the client: whole, in drops, late, in half, or not at all.

Nothing here decides what is said or billed. A client that leaves is no error: the rest of the time is still spent,
as the real one spends it.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web
from pydantic_core import to_json

from shoal_worker.sandbox.faults import Fault, FaultCall
from shoal_worker.sandbox.replies import JSON, Reply

MARK = {"X-Shoal-Sandbox": "1"}
DRIP_SECONDS = 0.5
#: Close with a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)


def plain_response(reply: Reply, headers: dict[str, str] | None = None) -> web.Response:
    body = reply.body.encode() if isinstance(reply.body, str) else to_json(reply.body)
    told = {"Content-Type": reply.content_type, **MARK, **reply.headers, **(headers or {})}
    return web.Response(status=reply.status, body=body, headers=told)


def has_left(request: web.Request) -> bool:
    """Whether the client has closed the connection."""
    return request.transport is None or request.transport.is_closing()


def reset_connection(request: web.Request) -> web.Response:
    """Break the connection off. The response returned is never sent."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
    return web.Response()


async def deliver(
    request: web.Request, body: bytes, headers: dict[str, str], call: FaultCall | None
) -> web.StreamResponse:
    """Send an answer, in the way that the fault asks for."""
    told = {"Content-Type": JSON, **MARK, **headers}
    send = _WAYS.get(call.fault) if call is not None else None
    if send is None or call is None:
        return web.Response(body=body, headers=told)
    return await send(request, body, told, call.seconds)


async def _late(_request: web.Request, body: bytes, headers: dict[str, str], seconds: float) -> web.StreamResponse:
    await asyncio.sleep(seconds)
    return web.Response(body=body, headers=headers)


async def _drip(request: web.Request, body: bytes, headers: dict[str, str], seconds: float) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    drops = int(seconds / DRIP_SECONDS)
    for _ in range(drops):
        await _write(response, b" ")
        await asyncio.sleep(DRIP_SECONDS)
    await asyncio.sleep(seconds - drops * DRIP_SECONDS)
    await _write(response, body)
    return response


async def _in_two(request: web.Request, body: bytes, headers: dict[str, str], seconds: float) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers | {"Content-Length": str(len(body))})
    await response.prepare(request)
    half = len(body) // 2
    await _write(response, body[:half])
    await asyncio.sleep(seconds)
    await _write(response, body[half:])
    return response


async def _cut(request: web.Request, body: bytes, headers: dict[str, str], _seconds: float) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers | {"Content-Length": str(len(body))})
    await response.prepare(request)
    await _write(response, body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _write(response: web.StreamResponse, piece: bytes) -> None:
    try:
        await response.write(piece)
    except ConnectionError:
        return


_Way = Callable[[web.Request, bytes, dict[str, str], float], Awaitable[web.StreamResponse]]
_WAYS: dict[Fault, _Way] = {
    Fault.SLOW_HEADERS: _late,
    Fault.DRIP_WHITESPACE: _drip,
    Fault.SLOW_BODY: _in_two,
    Fault.CUT_BODY: _cut,
}
