"""Who takes part: how each one's worker is started, and about how fast it is, so that its runs last long enough."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
ARQ = ("arq>=0.28", "hiredis>=3.4", "httpx>=0.28", "httpx-aiohttp>=0.2", "uvloop>=0.23")
SLOT = "{at_once}"
#: httpx's own pool looks at every connection for every request: with more at once it gets slower.
PLAIN_AT_ONCE = 100


@dataclass(frozen=True)
class Contestant:
    """`key` is its stable name in results.json. `command` follows the Python of its environment.

    `expected` is in answers per second, and only sizes the runs. `most_at_once` bounds what has no room for more.
    """

    key: str
    title: str
    module: str
    command: tuple[str, ...]
    client: str
    expected: int
    most_at_once: int = 1_000
    environ: tuple[tuple[str, str], ...] = ()
    python: str = sys.executable

    def worker_command(self, at_once: int) -> list[str]:
        return [self.python, *(part.format(at_once=at_once) for part in self.command)]

    def verb(self, *words: object) -> list[str]:
        return [self.python, str(PEERS / f"{self.module}.py"), *map(str, words)]

    @property
    def is_shoal(self) -> bool:
        return self.module == "shoal_peer"


def _shoal(lane: str, title: str) -> Contestant:
    command = ("-m", "shoal_worker")
    return Contestant(f"shoal_{lane}", title, "shoal_peer", command, "aiohttp", 1_000, environ=(("BENCH_LANE", lane),))


def _with_plain_httpx(contestant: Contestant) -> Contestant:
    """All its jobs share httpx's own pool, as its documentation has it."""
    return replace(
        contestant,
        key=f"{contestant.key}_plain",
        title=f"{contestant.title.removesuffix(', a client each')}, plain httpx",
        client="httpx",
        expected=60,
        most_at_once=PLAIN_AT_ONCE,
    )


def _celery(pool: str, client: str, expected: int, most_at_once: int) -> Contestant:
    shared = "a client each" if client == "own" else "plain httpx"
    command = ("-m", "celery", "-A", "celery_peer", "worker", "-P", pool, "-c", SLOT, "-l", "error")
    return Contestant(
        f"celery_{pool}" if client == "own" else f"celery_{pool}_plain",
        f"Celery {pool}, {shared}",
        "celery_peer",
        (*command, "--without-gossip", "--without-mingle"),
        client,
        expected,
        most_at_once,
    )


BULK = replace(_shoal("bulk", "Shoal, bulk"), expected=1_600)
SINGLE = _shoal("single", "Shoal, single jobs")
POSTGRES = replace(SINGLE, key="shoal_postgres", title="Shoal, single jobs, Postgres", expected=800)
SYNC = _shoal("sync", "Shoal, one after the other")
BARE = Contestant(
    "bare_loop", "bare loop, no queue", "bare_loop", (str(PEERS / "bare_loop.py"), "worker"), "aiohttp", 1_400
)
_TASKIQ = ("-m", "taskiq", "worker", "taskiq_peer:broker", "--workers", "1", "--max-async-tasks", SLOT)
TASKIQ = Contestant(
    "taskiq",
    "taskiq",
    "taskiq_peer",
    (*_TASKIQ, "--max-prefetch", SLOT, "--no-parse", "--log-level", "ERROR"),
    "aiohttp",
    600,
)
TASKIQ_LIST = replace(
    TASKIQ, key="taskiq_list", title="taskiq, list (no acknowledgements)", environ=(("BENCH_BROKER", "list"),)
)
STREAQ = Contestant("streaq", "streaq", "streaq_peer", (str(PEERS / "streaq_peer.py"), "worker"), "aiohttp", 400)
ARQ_PEER = Contestant("arq", "arq", "arq_peer", ("-m", "arq", "arq_peer.WorkerSettings"), "aiohttp", 300)
DRAMATIQ = Contestant(
    "dramatiq",
    "dramatiq threads, a client each",
    "dramatiq_peer",
    ("-m", "dramatiq", "dramatiq_peer", "--processes", "1", "--threads", SLOT),
    "own",
    700,
)
CELERY_THREADS = _celery("threads", "own", 250, 300)
SYNCHRONOUS = [
    _celery("prefork", "own", 100, 64),
    CELERY_THREADS,
    _celery("threads", "httpx", 60, PLAIN_AT_ONCE),
    _celery("gevent", "own", 150, 300),
    _celery("gevent", "httpx", 60, PLAIN_AT_ONCE),
]
#: The fast peers.
QUEUES = [TASKIQ, TASKIQ_LIST, STREAQ, ARQ_PEER, DRAMATIQ]
PLAIN = [_with_plain_httpx(one) for one in (BARE, TASKIQ, STREAQ, ARQ_PEER, DRAMATIQ)]
ALL = [BULK, SINGLE, POSTGRES, BARE, *QUEUES, *PLAIN, *SYNCHRONOUS]


def arq_python(folder: Path) -> str:
    """The Python of arq's own environment, made now: it pins redis below 6, and Celery needs a newer one."""
    python = folder / "arq" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "arq")], check=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([str(python), "-m", "pip", "install", *quiet, *ARQ], check=True, stderr=subprocess.DEVNULL)
    return str(python)
