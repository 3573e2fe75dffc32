"""A proxy in front of a server: it speaks TLS where the server cannot, or changes what the server says.

The servers from wheels are built without TLS. What a client sees of this proxy is what it sees of a server with a
certificate; the server behind it is a real one.
"""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread

#: How a Postgres client asks for TLS, and what it is told.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_CHUNK_BYTES = 65_536


@dataclass(frozen=True)
class Front:
    """`tls`: speak it with clients. `postgres`: only when asked, as Postgres does. `instead`: say this for that."""

    to_port: int
    tls: ssl.SSLContext | None = None
    postgres: bool = False
    instead: tuple[bytes, bytes] = (b"", b"")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if self.postgres:
                assert await reader.readexactly(8) == _SSL_REQUEST, "a client that does not ask for TLS"
                writer.write(b"S")
            if self.tls is not None:
                await writer.start_tls(self.tls)
            server_reader, server = await asyncio.open_connection("127.0.0.1", self.to_port)
            await asyncio.gather(self._pump(reader, server, False), self._pump(server_reader, writer, True))
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool) -> None:
        try:
            while said := await reader.read(_CHUNK_BYTES):
                writer.write(said.replace(*self.instead) if is_answer and self.instead[0] else said)
                await writer.drain()
        finally:
            writer.close()


@contextmanager
def in_front(front: Front) -> Iterator[int]:
    """Run it beside the test; its port on loopback."""
    loop = asyncio.new_event_loop()
    # The other side of a closed connection may still be written to: nobody waits for that.
    loop.set_exception_handler(lambda *_: None)
    listening = loop.run_until_complete(asyncio.start_server(front.serve, "127.0.0.1", 0))
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_end(listening), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(listening: asyncio.Server) -> None:
    listening.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
