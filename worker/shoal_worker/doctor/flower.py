"""Flower, as somebody without a password sees it."""

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from shoal_worker.doctor.addresses import is_loopback
from shoal_worker.doctor.findings import Finding, fault, fine

ANSWER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is open to whoever asks. `is_there` False: nobody answers at the address."""

    is_there: bool = False
    shows_pages: bool = False
    takes_commands: bool = False
    #: The address by which other machines reach it, '' for none.
    reached_at: str = ""
    #: Whether this environment has the variable that opens its API.
    has_open_variable: bool = False


async def look(address: str) -> Facts:
    """Ask without a password, at the address itself and, where that is loopback, from outside too."""
    return await asyncio.to_thread(_look, address.rstrip("/"))


def _look(address: str) -> Facts:
    has_variable = os.environ.get("FLOWER_UNAUTHENTICATED_API", "").lower() in {"true", "1", "yes", "on"}
    pages = _status(f"{address}/workers")
    if pages == 0:
        return Facts(has_open_variable=has_variable)
    from_elsewhere = outside(address)
    reached = from_elsewhere if from_elsewhere and _status(f"{from_elsewhere}/healthcheck") else ""
    # Reading its list of workers is part of the API that also grows pools and revokes tasks.
    takes_commands = _status(f"{address}/api/workers") == 200
    return Facts(True, pages == 200, takes_commands, reached, has_variable)


def outside(address: str) -> str:
    """The same port under this machine's own address; the address itself where it is another machine's."""
    parts = urlsplit(address)
    if not is_loopback(parts.hostname or ""):
        return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the kernel only tells which of its addresses it would use.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        host = probe.getsockname()[0]
    return "" if is_loopback(host) else f"{parts.scheme}://{host}:{parts.port or 80}"


def _status(url: str) -> int:
    """The HTTP status, 0 where nobody answers."""
    try:
        with urlopen(url, timeout=ANSWER_SECONDS) as reply:  # noqa: S310 the address of the user's own Flower
            return int(reply.status)
    except HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0


def findings(facts: Facts, address: str) -> Iterator[Finding]:
    fix = "set FLOWER_BASIC_AUTH=user:password, or bind it to loopback (--address=127.0.0.1) behind a proxy that asks"
    if facts.takes_commands or facts.has_open_variable:
        yield fault(
            "flower-api",
            "Flower's API takes commands without a password"
            if facts.takes_commands
            else "FLOWER_UNAUTHENTICATED_API is set",
            "any web page that is open on a machine that reaches Flower can stop workers and revoke jobs",
            "unset FLOWER_UNAUTHENTICATED_API and restart Flower",
        )
    if facts.shows_pages and facts.reached_at:
        why = "whoever finds it sees job ids, workers and costs"
        yield fault("flower-open", f"Flower can be read without a password at {facts.reached_at}", why, fix)
    elif facts.is_there:
        yield fine("flower", f"Flower at {address} is not open to others")
    elif not facts.has_open_variable:
        yield fine("flower", f"no Flower at {address}")
