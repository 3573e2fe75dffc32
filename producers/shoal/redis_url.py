"""Where a Redis is: one server, or whichever server Sentinel names as primary.

::

    redis://[user:password@]host:6379/0
    rediss://[user:password@]host:6379/0[?ssl_ca_certs=/path/ca.pem]    with TLS
    sentinel://[user:password@]host1:26379,host2:26379/master name[/0]

User and password are those of the Redis servers; the sentinels are asked without any.
"""

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import hiredis
from redis.asyncio import Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

SCHEME = "sentinel://"
TLS_SCHEME = "rediss://"
SENTINEL_PORT = 26379
#: What a `rediss://` URL may say of its certificates: an authority of one's own, and what the server is shown.
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS_SWITCHES: dict[str, dict[str, Any]] = {
    "ssl_cert_reqs": {"required": ssl.CERT_REQUIRED, "none": ssl.CERT_NONE},
    "ssl_check_hostname": {"true": True, "false": False},
}
#: A sentinel that does not answer by then is passed over for the next one.
SENTINEL_SECONDS = 2.0
#: What a server says that is starting, changes its role, or has lost its replicas: it, or another one, will serve soon.
AWAY = ("LOADING", "MASTERDOWN", "READONLY", "UNBLOCKED", "NOREPLICAS")


@dataclass(frozen=True, slots=True, repr=False)
class Sentinels:
    """A `sentinel://` URL in its parts."""

    nodes: tuple[tuple[str, int], ...]
    master: str
    db: int
    username: str | None
    password: str | None

    form: ClassVar[str] = "sentinel://host1:26379,host2:26379/<master name>/0"

    @classmethod
    def of(cls, url: str) -> Self:
        """Raises `ValueError` that never holds the URL itself."""
        authority, _, path = url.removeprefix(SCHEME).partition("/")
        login, _, hosts = authority.rpartition("@")
        username, _, password = login.partition(":")
        master, _, db = path.partition("/")
        if not hosts or not master or not (db or "0").isdigit():
            raise ValueError(f"must be a URL such as {cls.form}")
        nodes = tuple(_node(host) for host in hosts.split(","))
        return cls(nodes, unquote(master), int(db or "0"), unquote(username) or None, unquote(password) or None)

    def kombu_url(self, scheme: str = "sentinel") -> str:
        """The same for kombu, which wants a URL for each sentinel, and the name as the option `master_name`."""
        login = f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"
        return ";".join(
            f"{scheme}://{login if self.password else ''}{host}:{port}/{self.db}" for host, port in self.nodes
        )


_TIMES = {"socket_timeout": SENTINEL_SECONDS, "socket_connect_timeout": SENTINEL_SECONDS}
#: How a blocking client asks the sentinels: kombu's `sentinel_kwargs`.
SENTINEL_OPTIONS: dict[str, Any] = {**_TIMES, "retry": Retry(NoBackoff(), 0)}


def _node(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if colon and not port.isdigit():
        raise ValueError(f"must be a URL such as {Sentinels.form}")
    return (host, int(port)) if colon else (text, SENTINEL_PORT)


def is_sentinel(url: str) -> bool:
    return url.startswith(SCHEME)


def tls_options(url: str) -> dict[str, Any] | None:
    """What the URL says of certificates, in redis-py's words; None without TLS. Raises `ValueError`, without the URL.

    Certificates are verified, and must be valid for the host, unless the URL says otherwise. By itself kombu verifies
    none, and Flower reads no URL.
    """
    given = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    if not url.startswith(TLS_SCHEME):
        if given:
            raise ValueError(f"takes no {min(given)}: only a rediss:// URL has options, for its certificates")
        return None
    options: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    for name, value in given.items():
        if name in TLS_FILES:
            if not Path(value).is_file():
                raise ValueError(f"{name}: no file {value}")
            options[name] = value
        elif value in TLS_SWITCHES.get(name, {}):
            options[name] = TLS_SWITCHES[name][value]
        else:
            known = ", ".join(
                [*TLS_FILES, *(f"{switch}={'|'.join(values)}" for switch, values in TLS_SWITCHES.items())]
            )
            raise ValueError(f"takes no such {name}; a rediss:// URL knows {known}")
    return options | ({} if options["ssl_cert_reqs"] else {"ssl_check_hostname": False})


def without_options(url: str) -> str:
    """For kombu, which is told of certificates beside the URL."""
    return url.partition("?")[0]


def in_words(error: BaseException) -> str:
    """Why a server was not reached, without anything that was sent to it: a refused certificate says what is wrong."""
    refusal = certificate_fault(error)
    return f"its certificate is not valid: {refusal.verify_message}" if refusal else type(error).__name__


def certificate_fault(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The refused certificate that an error comes from, if it does."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause


def open_client(url: str, **options: Any) -> Redis:
    """A client of the server, or of the primary of the day. It connects at the first command."""
    if not is_sentinel(url):
        tls = tls_options(url)
        own = _PackingConnection if tls is None else _PackingSSLConnection
        client: Redis = Redis.from_url(without_options(url), connection_class=own, **options, **(tls or {}))
        return client
    known = Sentinels.of(url)
    asking = {**_TIMES, "retry": AsyncRetry(NoBackoff(), 0)}
    sentinel: Any = Sentinel(known.nodes, sentinel_kwargs=asking, **options)  # type: ignore[no-untyped-call]
    login = {"username": known.username, "password": known.password, "db": known.db}
    primary: Redis = sentinel.master_for(known.master, connection_pool_class=_Pool, **login)
    return primary


class _Packing:
    """Puts a pipeline's commands into bytes in C, not in Python."""

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(hiredis.pack_command(tuple(command)) for command in commands)]


class _PackingConnection(_Packing, Connection):
    pass


class _PackingSSLConnection(_Packing, SSLConnection):
    pass


class _Pool(SentinelConnectionPool):
    """Closes its connections to the sentinels with its own."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def has_replicas(client: Redis) -> bool:
    """Whether another server may take over from this client's one."""
    return isinstance(client.connection_pool, SentinelConnectionPool)


async def is_replaced(client: Redis) -> bool:
    """Whether a sentinel names another primary than this client's server, or is looking for one, or none answers.

    A replaced server goes on taking writes for some seconds, and then forgets them.
    """
    pool: Any = client.connection_pool
    asked = (sentinel.sentinel_masters() for sentinel in pool.sentinel_manager.sentinels)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    states = [answer.get(pool.service_name) for answer in answers if not isinstance(answer, BaseException)]
    return not states or not all(
        state and (state["ip"], state["port"]) == pool.master_address and "failover_in_progress" not in state["flags"]
        for state in states
    )


def is_away(error: RedisError) -> bool:
    """Whether an error reply only says that the server cannot serve now. Servers before 7 name it in mid-sentence."""
    said = str(error)
    return said.startswith(AWAY) or "-READONLY" in said
