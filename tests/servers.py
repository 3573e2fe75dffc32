"""Servers that the tests start beside the one Valkey: a replicated one behind three sentinels, and a RabbitMQ."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from amqp.exceptions import AMQPError
from kombu import Connection

from conftest import eventually
from shoal.publisher import amqp_queue
from shoal_worker import services

MASTER = "fish"
SENTINELS = 3
QUORUM = 2
SENTINEL_CONF = """\
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {master} 127.0.0.1 {primary} {quorum}
sentinel down-after-milliseconds {master} 1000
sentinel failover-timeout {master} 10000
"""


@dataclass
class Replicated:
    """A primary, its replica and three sentinels. `url` is how Shoal is told of them."""

    tree: services.Services
    ports: list[int]
    sentinels: list[int]

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"sentinel://{nodes}/{MASTER}/0"

    def primary(self) -> int:
        """The primary's port, as the first sentinel that knows it says."""
        with redis.Redis(port=self.sentinels[0]) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(MASTER)[1])

    def client(self) -> "redis.Redis":
        """A connection to the primary of now."""
        return redis.Redis(port=self.primary())

    def kill_primary(self) -> None:
        """With kill -9; returns when the sentinels have named another."""
        killed = self.primary()
        service = next(service for service in self.tree.started if service.name == f"valkey-{killed}")
        service.process.kill()
        service.process.wait()
        eventually(lambda: self.primary() != killed, what="the failover")

    def switch(self) -> None:
        """A failover that nobody died for."""
        before = self.primary()
        with redis.Redis(port=self.sentinels[0]) as sentinel:
            sentinel.sentinel_failover(MASTER)
        eventually(lambda: self.primary() != before, what="the failover")


@contextmanager
def replicated(folder: Path) -> Iterator[Replicated]:
    folder.mkdir()
    tree = services.Services(os.environ, folder)
    servers = Replicated(tree, [services.free_port() for _ in range(2)], [])
    try:
        for port in servers.ports:
            _start_valkey(servers, port, folder)
        for _ in range(SENTINELS):
            servers.sentinels.append(_start_sentinel(servers, folder))
        eventually(lambda: all(_knows_all(port) for port in servers.sentinels), what="sentinels that know all")
        yield servers
    finally:
        tree.stop()


def _start_valkey(servers: Replicated, port: int, folder: Path) -> None:
    data = folder / f"data-{port}"
    data.mkdir()
    first = servers.ports[0]
    servers.tree.start(
        f"valkey-{port}",
        [
            services.valkey_executable(),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", ""),
            *("--repl-diskless-sync-delay", "0", "--maxmemory-policy", "noeviction"),
            *(() if port == first else ("--replicaof", f"127.0.0.1 {first}")),
        ],
    )
    servers.tree.await_condition("valkey", lambda: services.answers_ping(f"redis://127.0.0.1:{port}/0"))


def _start_sentinel(servers: Replicated, folder: Path) -> int:
    port = services.free_port()
    conf = folder / f"sentinel-{port}.conf"
    text = SENTINEL_CONF.format(port=port, folder=folder, master=MASTER, primary=servers.ports[0], quorum=QUORUM)
    conf.write_text(text)
    servers.tree.start(f"sentinel-{port}", [services.valkey_executable(), str(conf), "--sentinel"])
    servers.tree.await_condition("sentinel", lambda: services.answers_ping(f"redis://127.0.0.1:{port}/0"))
    return port


def _knows_all(port: int) -> bool:
    with redis.Redis(port=port) as sentinel:
        known = sentinel.sentinel_master(MASTER)
    return bool(known["num-slaves"] == 1 and known["num-other-sentinels"] == SENTINELS - 1)


RABBITMQ = Path(os.environ.get("SHOAL_TEST_RABBITMQ", "/usr/lib/rabbitmq/bin/rabbitmq-server"))


@dataclass
class Rabbit:
    """A RabbitMQ of its own, with all it writes in one folder."""

    tree: services.Services
    folder: Path
    port: int
    environ: dict[str, str]

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        self.tree.environ = self.environ
        self.tree.start("rabbitmq", [str(RABBITMQ)], grace_seconds=30)
        self.tree.await_condition("rabbitmq", self._answers)

    def remember(self) -> None:
        """Declare the queue. RabbitMQ 3.10 forgets one when it is killed within two seconds of the first time."""
        with Connection(self.url) as connection, connection.channel() as channel:
            amqp_queue()(channel).declare()
        names = next((self.folder / "mnesia").glob("*/quorum/*/names.dets"))
        eventually(lambda: b"%2F_shoal" in names.read_bytes(), what="the queue on disk")

    def forget(self) -> None:
        """Empty the queue."""
        with Connection(self.url) as connection, connection.channel() as channel:
            amqp_queue()(channel).purge()

    def kill(self) -> None:
        """With kill -9."""
        service = next(service for service in self.tree.started if service.name == "rabbitmq")
        self.tree.started.remove(service)
        service.process.kill()
        service.process.wait()

    def counts(self) -> tuple[int, int]:
        """How many messages there are, and how many consumers."""
        with Connection(self.url) as connection, connection.channel() as channel:
            declared = amqp_queue()(channel).queue_declare(passive=True)
        return declared.message_count, declared.consumer_count

    def _answers(self) -> bool:
        try:
            with Connection(self.url, connect_timeout=1) as connection:
                connection.connect()
        except (OSError, AMQPError):
            return False
        return True


@contextmanager
def rabbit(folder: Path) -> Iterator[Rabbit]:
    folder.mkdir()
    tree = services.Services(os.environ, folder)
    epmd_port, port = services.free_port(), services.free_port()
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, and does not stand before it
        "RABBITMQ_NODENAME": f"shoal{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(services.free_port()),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -start_epmd false",
    }
    (folder / "enabled_plugins").write_text("[].")
    running = Rabbit(tree, folder, port, environ)
    try:
        tree.environ = environ
        tree.start("epmd", ["epmd", "-port", str(epmd_port), "-address", "127.0.0.1"])
        running.start()
        running.remember()
        yield running
    finally:
        tree.stop()
