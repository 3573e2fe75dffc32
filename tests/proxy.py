"""A proxy in front of a server: it speaks TLS where the server cannot, or changes what the server says.

The servers from wheels are built without TLS. What a client sees of this proxy is what it sees of a server with a
certificate; the server behind it is a real one. A process, and its handle.
"""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

#: How a Postgres client asks for TLS.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_CHUNK_BYTES = 65_536


@contextmanager
def in_front(
    to_port: int,
    *,
    certificate: Path | None = None,
    clients: Path | None = None,
    postgres: bool = False,
    instead: tuple[str, str] = ("", ""),
) -> Iterator[int]:
    """Run it; its port on loopback. `postgres`: TLS only when asked for. `instead`: what is said for what.

    `certificate` is a PEM file with key and chain; `clients` one with the authority of theirs, if they must have one.
    """
    options = ["--certificate", str(certificate)] if certificate else []
    options += ["--clients", str(clients)] if clients else []
    options += ["--postgres"] if postgres else []
    options += ["--instead", *instead] if instead[0] else []
    command = [sys.executable, __file__, "--to-port", str(to_port), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Front:
    to_port: int
    tls: ssl.SSLContext | None
    postgres: bool
    instead: tuple[bytes, bytes] | None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if self.postgres:
                assert await reader.readexactly(len(_SSL_REQUEST)) == _SSL_REQUEST, "a client that asks for no TLS"
                writer.write(b"S")
            if self.tls is not None:
                await writer.start_tls(self.tls)
            server_reader, server = await asyncio.open_connection("127.0.0.1", self.to_port)
            await asyncio.gather(self._pump(reader, server, None), self._pump(server_reader, writer, self.instead))
        writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, instead: tuple[bytes, bytes] | None
    ) -> None:
        try:
            while said := await reader.read(_CHUNK_BYTES):
                writer.write(said.replace(*instead) if instead else said)
                await writer.drain()
        finally:
            writer.close()


async def serve(front: Front) -> None:
    """Say the port, then serve for ever."""
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 the protocol with our parent
    await server.serve_forever()


@click.command()
@click.option("--to-port", type=int, required=True)
@click.option("--certificate", type=click.Path(exists=True))
@click.option("--clients", type=click.Path(exists=True))
@click.option("--postgres", is_flag=True)
@click.option("--instead", nargs=2)
def main(
    to_port: int, certificate: str | None, clients: str | None, *, postgres: bool, instead: tuple[str, str] | None
) -> None:
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        if clients:
            tls.load_verify_locations(clients)
            tls.verify_mode = ssl.CERT_REQUIRED
    asyncio.run(serve(Front(to_port, tls, postgres, (instead[0].encode(), instead[1].encode()) if instead else None)))


if __name__ == "__main__":
    main()
