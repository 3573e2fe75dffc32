"""A TCP proxy between a worker and its provider that can be told to fail: a process, and its handle.

It does not know HTTP. A mode holds for connections that are open and for those that come:

    pass        bytes go both ways
    refuse      the port is closed, as of a server that is not there; open connections are reset
    reset       connections are accepted and reset
    cut         half of what the provider says next goes through, then the connection ends
    hole        bytes go in and nothing comes out
"""

import asyncio
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import click

_RESET = struct.pack("ii", 1, 0)
_CHUNK_BYTES = 65_536


@dataclass
class Proxy:
    """The process, and what it is told over its standard input."""

    process: "subprocess.Popen[str]"
    port: int

    @classmethod
    def start(cls, to_port: int) -> "Proxy":
        command = [sys.executable, __file__, "--to-port", str(to_port)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        return cls(process, int(process.stdout.readline()))

    def become(self, mode: str) -> None:
        """Change its mode; it has changed when this returns."""
        assert self.process.stdin
        assert self.process.stdout
        print(mode, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline().strip() == mode

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class Relay:
    to_port: int
    mode: str = "pass"
    port: int = 0
    server: asyncio.Server | None = None
    connections: set[asyncio.StreamWriter] = field(default_factory=set)

    async def become(self, mode: str) -> None:
        self.mode = mode
        if mode in {"refuse", "reset"}:
            for connection in list(self.connections):
                reset(connection)
        if mode == "refuse" and self.server is not None:
            self.server.close()
            self.server = None
        elif mode != "refuse" and self.server is None:
            self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=1024)
            self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            reset(client)
            return
        provider_reader, provider = await asyncio.open_connection("127.0.0.1", self.to_port)
        self.connections |= {client, provider}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self.pump(client_reader, provider, lambda said: said))
                both.create_task(self.pump(provider_reader, client, self.half))
        except* (OSError, ConnectionError):
            pass
        finally:
            self.connections -= {client, provider}
            for writer in (client, provider):
                writer.close()

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: Callable[[bytes], bytes]
    ) -> None:
        while said := await reader.read(_CHUNK_BYTES):
            if self.mode == "hole":
                continue
            goes = passed(said)
            writer.write(goes)
            await writer.drain()
            if goes != said:
                break
        # The other direction ends with this one.
        raise ConnectionError

    def half(self, said: bytes) -> bytes:
        return said[: len(said) // 2] if self.mode == "cut" else said


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def obey(to_port: int) -> None:
    """Take modes from standard input, a line each; say the port first, and each mode when it holds."""
    relay = Relay(to_port)
    await relay.become("pass")
    print(relay.port, flush=True)  # noqa: T201 the protocol with our parent
    while mode := (await asyncio.to_thread(sys.stdin.readline)).strip():
        await relay.become(mode)
        print(mode, flush=True)  # noqa: T201 the same


@click.command()
@click.option("--to-port", type=int, required=True)
def main(to_port: int) -> None:
    asyncio.run(obey(to_port))


if __name__ == "__main__":
    main()
