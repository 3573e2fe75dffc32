"""Nothing private leaks: words and secrets are planted wherever they may be, and then looked for wherever they may not.

What a producer sent and what a model answered may stand in the payloads in Redis and Postgres, in dead letters and in
the request to the model. A secret may stand in the environment.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

import psycopg
import pytest
import redis
from celery import Celery
from pydantic import SecretStr, ValidationError

from conftest import Sandbox, Workers, eventually
from receivers import SENTRY_KEY, Receiver, receiver
from shoal import Classify, Extract, Job, JobFailed, ProducerSettings, Rank, Shoal, ShoalError, Summarize, wire
from shoal.control import client_app
from shoal.messages import message_of
from shoal.signing import Signer
from shoal_worker import services

WORDS = (
    *("quokkatext", "umbrellalabel", "zeppelinlabel", "marzipandocument", "wombatquery", "lemurcriterion"),
    *("narwhalinstruction", "gherkindescription", "turnipfocus", "walnutchoice"),
    KEY := "pelicankey",
)
API_KEY, PASSWORD, SIGNING_KEY = "sk-or-v1-plantedkey", "plantedpassword", "plantedsigningkey"
FLOWER_PASSWORD = "plantedflower"
SECRETS = (API_KEY, PASSWORD, SIGNING_KEY, SENTRY_KEY, FLOWER_PASSWORD)

TEXT = "The quokkatext was charged twice on 2024-05-01."
LABELS = {"umbrellalabel": "gherkindescription", "zeppelinlabel": "gherkindescription"}
FIELDS = {
    "type": "object",
    "properties": {
        "date": {"type": "string", "description": "gherkindescription"},
        "fruit": {"type": "string", "enum": ["walnutchoice", "other"]},
    },
}
SCHEDULE = """
[planted]
every_seconds = 2
kind = "summarize"
args = { focus = "turnipfocus", length_words = 10 }
file = "rows.csv"
text_column = "body"
"""
TIMES = {"visibility_timeout_seconds": 3, "lease_seconds": 1}


def jobs(marker: str = "") -> list[Any]:
    """One of each kind, with a word of ours in each field that has text."""
    text = f"{TEXT} {marker}"
    return [
        Classify(text=text, labels=LABELS),
        Extract(text=text, fields=FIELDS, instructions="narwhalinstruction"),
        Rank(query=f"wombatquery {marker}", documents=("marzipandocument", text), criterion="lemurcriterion"),
        Summarize(text=text, focus="turnipfocus", length_words=10),
    ]


class Harvest:
    """What was said, by place."""

    def __init__(self) -> None:
        self.said: dict[str, list[str]] = {}

    def add(self, place: str, said: object) -> None:
        self.said.setdefault(place, []).append(said.decode(errors="replace") if isinstance(said, bytes) else str(said))

    def leaks(self, words: tuple[str, ...]) -> dict[str, list[str]]:
        """Places with the planted words in them, and with what stands around each first one."""
        found: dict[str, list[str]] = {}
        for place, texts in self.said.items():
            text = "\n".join(texts)
            hits = [text[max(0, at - 150) : at + 80] for word in words if (at := text.find(word)) >= 0]
            if hits:
                found[place] = hits
        return found


@pytest.fixture
def password_url(valkey: str, client: "redis.Redis") -> Iterator[str]:
    """The Valkey, by a user with a password."""
    client.acl_setuser(
        "shoal", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], channels=["*"], categories=["+@all"]
    )
    yield urlunsplit(urlsplit(valkey)._replace(netloc=f"shoal:{PASSWORD}@{urlsplit(valkey).netloc}"))
    client.acl_deluser("shoal")


@pytest.fixture
def received() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


@pytest.fixture
def environ(workers: Workers, password_url: str, received: Receiver) -> dict[str, str]:
    workers.environ |= {
        "SHOAL_REDIS_URL": password_url,
        "SHOAL_SIGNING_KEYS": SIGNING_KEY,
        "SHOAL_OPENROUTER_API_KEY": API_KEY,
        "SHOAL_SENTRY_DSN": received.dsn,
        "SHOAL_SENTRY_TRACES_SAMPLE_RATE": "1",
        "SHOAL_LOG_LEVEL": "DEBUG",
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
        "FLOWER_BASIC_AUTH": f"tester:{FLOWER_PASSWORD}",
        "FLOWER_UNAUTHENTICATED_API": "false",
    }
    return workers.environ


@pytest.fixture
def producer(password_url: str) -> Iterator[Shoal]:
    settings = ProducerSettings(redis_url=SecretStr(password_url), signing_keys=SecretStr(SIGNING_KEY))
    with Shoal(settings) as shoal:
        yield shoal


@pytest.fixture
def beside(environ: dict[str, str], tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The addresses of Flower and of the figures. A beat sends texts too, and meets a row that is no job."""
    folder = tmp_path / "beside"
    folder.mkdir()
    (folder / "rows.csv").write_text(f'body\n"{TEXT}"\n"   "\n')
    (folder / "schedule.toml").write_text(SCHEDULE)
    tree = services.Services({**environ, "SHOAL_SCHEDULE_FILE": str(folder / "schedule.toml")}, folder)
    try:
        port = services.free_port()
        tree.start("metrics", [str(Path(sys.executable).with_name("shoal")), "metrics", "--port", str(port)])
        services.start_beat(tree)
        flower = services.start_flower(tree, services.free_port())
        tree.await_condition("metrics", lambda: not services.port_is_free(port))
        yield flower, f"http://127.0.0.1:{port}/metrics"
    finally:
        tree.stop()


@pytest.fixture
def events(password_url: str) -> Iterator[list[dict[str, Any]]]:
    """Celery's events, as they come."""
    seen: list[dict[str, Any]] = []
    with client_app(SecretStr(password_url)) as app, app.connection_for_read() as connection:
        listener = app.events.Receiver(connection, handlers={"*": seen.append})

        def listen() -> None:
            with contextlib.suppress(Exception):  # the connection's end
                listener.capture(limit=None, timeout=None, wakeup=False)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield seen
        listener.should_stop = True
        thread.join(5)


def get(address: str) -> str:
    request = Request(address)
    login = base64.b64encode(f"tester:{FLOWER_PASSWORD}".encode()).decode()
    request.add_header("authorization", f"Basic {login}")
    with urlopen(request, timeout=20) as reply:
        text: str = reply.read().decode()
        return text


def failure(call: Callable[[], object]) -> str:
    """What a backend would log of an error, with all that led to it."""
    with pytest.raises((ShoalError, ValidationError)) as caught:
        call()
    return "".join(traceback.format_exception(caught.value)) + repr(caught.value)


def look_at_what_runs(harvest: Harvest, url: str, flower: str, jobs_running: list[Job[Any]]) -> None:
    """Remote control and Flower, while jobs run and wait."""
    with client_app(SecretStr(url)) as app:
        inspect = app.control.inspect(timeout=5, limit=1)

        def active() -> bool:
            return any(inspect.active(safe=False).values())

        eventually(active, what="running tasks")
        for verb in ("active", "reserved", "scheduled", "revoked", "registered", "stats", "report", "active_queues"):
            harvest.add(f"inspect {verb}", getattr(inspect, verb)())
        harvest.add("inspect active, not safe", inspect.active(safe=False))
        harvest.add(
            "inspect reserved, not safe", app.control.inspect(timeout=5, limit=1)._request("reserved", safe=False)
        )
        harvest.add("inspect conf", inspect.conf(with_defaults=True))
        assert "shoal.classify" in harvest.said["inspect scheduled"][0]
        told = inspect.query_task(*(job.id for job in jobs_running))
        assert jobs_running[0].id in str(told)
        harvest.add("inspect query_task", told)
    harvest.add("flower api/workers", get(f"{flower}/api/workers?refresh=1"))
    assert jobs_running[0].id in harvest.said["inspect active, not safe"][0]


def look_at_flower(harvest: Harvest, flower: str, job_ids: list[str]) -> None:
    tasks = get(f"{flower}/api/tasks?limit=1000")
    assert all(job_id in tasks for job_id in job_ids)
    harvest.add("flower api/tasks", tasks)
    workers = list(json.loads(get(f"{flower}/api/workers")))
    pages = ["workers", "tasks", "broker", "metrics", "api/task/types", *(f"worker/{name}" for name in workers)]
    for path in [*pages, *(f"task/{job_id}" for job_id in job_ids), *(f"api/task/info/{job_id}" for job_id in job_ids)]:
        harvest.add(f"flower {path.split('/')[0]}", get(f"{flower}/{path}"))


def send_bad_messages(client: "redis.Redis", valkey: str) -> None:
    """Unsigned, unreadable, of no known task, of strange arguments, from a stock client: all with our words."""
    with Shoal(ProducerSettings(redis_url=SecretStr(valkey))) as forger:
        for job in jobs("forged"):
            forger.enqueue(job)
    client.lpush("shoal", f"no JSON {TEXT}", json.dumps({"body": TEXT, "headers": {"task": "shoal.classify"}}))
    with Celery(broker=valkey, set_as_current=False) as app:
        app.conf.task_ignore_result = True
        app.send_task("shoal.dance", kwargs={"text": TEXT}, queue="shoal")
        app.send_task("shoal.classify", args=[TEXT, TEXT, TEXT], queue="shoal")
        app.send_task("shoal.classify", kwargs={"job": {"kind": "classify", "args": {"text": TEXT}}}, queue="shoal")
        app.send_task("shoal.classify", kwargs={"args": {"text": TEXT, "labels": [*LABELS]}}, queue="shoal")
        app.send_task("shoal.pack", kwargs={"jobs": TEXT}, queue="shoal")
        app.send_task("shoal.pack", kwargs={"jobs": [TEXT, {"job": {"args": TEXT}}]}, queue="shoal")


def run_commands(harvest: Harvest, environ: dict[str, str], folder: Path, job_id: str) -> None:
    """The `shoal` command, as operators use it; not the verbs that are there to show answers."""
    (folder / "in.csv").write_text(f"text\n{TEXT}\n{TEXT} again\n\n")
    shoal = str(Path(sys.executable).with_name("shoal"))
    submit = ("submit", "classify", "in.csv", "--text", "text", "-o", "out.jsonl", "--labels", ",".join(LABELS))
    one_label = ("submit", "classify", "--text", TEXT, "--labels", "umbrellalabel")
    started = [
        subprocess.Popen([shoal, *command], env=environ, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in (submit, one_label, ("why", job_id), ("dead", "list"))
    ]
    for process in started:
        output, _ = process.communicate(timeout=60)
        harvest.add("the shoal command", output)


@dataclass
class World:
    """All parts, and what they said."""

    workers: Workers
    sandbox: Sandbox
    producer: Shoal
    client: "redis.Redis"
    url: str
    flower: str
    metrics: str
    harvest: Harvest


@pytest.fixture
def world(
    workers: Workers,
    environ: dict[str, str],
    sandbox: Sandbox,
    producer: Shoal,
    client: "redis.Redis",
    beside: tuple[str, str],
) -> World:
    workers.command = (str(Path(__file__).with_name("leaky_worker.py")),)
    return World(workers, sandbox, producer, client, environ["SHOAL_REDIS_URL"], *beside, Harvest())


def run_slow_ones(world: World) -> list[Job[Any]]:
    """Looked at while they run or wait; one is cancelled, one revoked, and then their worker is killed."""
    world.workers.start(**TIMES)
    world.sandbox.scenario(latency_seconds=20.0)
    running: list[Job[Any]] = [world.producer.enqueue(job) for job in jobs("slow")]
    running += world.producer.enqueue_many(Classify(text=f"{TEXT} {n}", labels=LABELS) for n in range(3))
    with Celery(broker=world.workers.valkey, set_as_current=False) as app:
        app.send_task("shoal.classify", kwargs={"job": TEXT}, queue="shoal", countdown=600, ignore_result=True)
    look_at_what_runs(world.harvest, world.url, world.flower, running[:4])
    running.pop(0).cancel()
    with client_app(SecretStr(world.url)) as app:
        app.control.revoke(running.pop(0).id, terminate=True)
    os.killpg(world.workers.processes[0].pid, signal.SIGKILL)
    world.sandbox.scenario(latency_seconds=0.02)
    world.workers.start(**TIMES)
    return running


def fail_in_every_way(world: World) -> tuple[list[Job[Any]], list[Job[Any]]]:
    """Jobs that are tried again and answered, and jobs that are given up; a crash; what is no job at all."""
    producer = world.producer
    failing = ("bad_request", "moderation", "refusal", "length_empty", "misfit_values", "bad_json")
    failed = [producer.enqueue(job) for fault in failing for job in jobs(f"[[fault:{fault}]]")]
    failed.append(producer.enqueue(jobs("[[bug]]")[3]))
    tried = [
        producer.enqueue(job) for fault in ("server_500*1", "upstream_429:1*1") for job in jobs(f"[[fault:{fault}]]")
    ]
    tried.append(producer.enqueue(jobs("keyed")[0], idempotency_key=KEY))
    blocked = message_of(jobs("blocked")[0], {}, producer.settings, time.time())
    world.client.lpush(wire.result_record(blocked.id), "in the way")
    world.client.lpush(wire.QUEUE, wire.message(blocked, Signer.of(SecretStr(SIGNING_KEY))))
    send_bad_messages(world.client, world.workers.valkey)
    eventually(lambda: b'"delivery_failed"' in world.workers.log(1), what="a failed delivery")
    world.client.delete(wire.result_record(blocked.id))
    return tried, failed


def what_a_backend_logs(producer: Shoal, failed: list[Job[Any]]) -> Iterator[str]:
    nowhere = f"redis://shoal:{PASSWORD}@127.0.0.1:{services.free_port()}/0"
    calls: list[Callable[[], object]] = [
        lambda: failed[0].result(1),
        lambda: failed[-1].result(1),
        lambda: producer.enqueue(jobs("other")[0], idempotency_key=KEY),
        lambda: Classify(text=TEXT, labels=TEXT),
        lambda: Extract(text=TEXT, fields={"type": "object", "properties": [FIELDS]}),
        lambda: producer.job("unknown").status(),
        lambda: ProducerSettings.load(redis_url=f"http://shoal:{PASSWORD}@h", signing_keys=SIGNING_KEY),
        lambda: Shoal(ProducerSettings(redis_url=SecretStr(nowhere))).enqueue(jobs()[0]),
    ]
    yield from map(failure, calls)


def test_nothing_that_was_planted_is_found_where_it_does_not_belong(
    world: World, environ: dict[str, str], events: list[dict[str, Any]], received: Receiver, tmp_path: Path
) -> None:
    harvest, workers = world.harvest, world.workers
    running = run_slow_ones(world)
    tried, failed = fail_in_every_way(world)
    for job in (*running, *tried):
        job.result(60)
    for job in failed:
        with contextlib.suppress(JobFailed):  # some kinds repair some misfits
            job.result(60)
    ids = [job.id for job in (*running[:2], *tried[3:6], tried[-1], *failed[:4], failed[-1])]
    eventually(
        lambda: all(job_id in get(f"{world.flower}/api/tasks?limit=1000") for job_id in ids), what="all in Flower"
    )
    look_at_flower(harvest, world.flower, ids)
    for said in what_a_backend_logs(world.producer, failed):
        harvest.add("client exceptions", said)
    run_commands(harvest, environ, tmp_path, running[0].id)
    harvest.add("metrics", get(world.metrics))
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            harvest.add("command lines", path.read_bytes())
    workers.processes[1].send_signal(signal.SIGTERM)
    workers.processes[1].wait(60)
    eventually(lambda: world.client.hget("shoal:beat:entry:planted", "outcome"), what="a run of the beat")
    for log in (*tmp_path.glob("worker*.log"), *(tmp_path / "beside").glob("*.log")):
        harvest.add(log.name, log.read_bytes())
    harvest.add("events", events)
    # Its key stands in the head of each envelope: Sentry knows it.
    harvest.add("sentry and traces", received.everything().replace(SENTRY_KEY.encode(), b""))
    leaks = harvest.leaks((*WORDS, *SECRETS))
    assert not leaks, json.dumps(leaks, indent=1)
    # All of it was looked at while there was something to be seen.
    assert {"task-received", "task-succeeded", "task-failed", "task-retried"} <= {event["type"] for event in events}
    causes = {event["tags"]["cause"] for event in received.events()}
    crashes = {"loop_error", "worker_bug", "delivery_failed", "worker_lost"}
    assert (
        crashes | {"request_refused", "content_refused", "misfit", "truncated", "forged", "invalid_message"} <= causes
    )
    assert not causes & {"uncaught", "captured"}
    assert received.spans()
    assert received.items("transaction")


def test_what_postgres_says_of_a_row_stays_in_the_client(postgres: str) -> None:
    """The database's errors show the row that it refuses."""
    with (
        Shoal(ProducerSettings.load(result_url=postgres)) as shoal,
        psycopg.connect(postgres, autocommit=True) as admin,
    ):
        admin.execute("ALTER TABLE shoal.jobs ADD CONSTRAINT shut CHECK (kind <> 'classify') NOT VALID")
        try:
            said = failure(lambda: shoal.enqueue(jobs()[0]))
        finally:
            admin.execute("ALTER TABLE shoal.jobs DROP CONSTRAINT shut")
    assert "refused a statement: CheckViolation" in said
    assert "DETAIL" not in said
