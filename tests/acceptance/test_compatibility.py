"""Producers and workers of the released version beside those of this one, for real.

The released code is unpacked from git and runs in this environment's Python, found before what is installed here.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from pydantic import SecretStr

from conftest import Sandbox, Workers, eventually, said
from shoal import Classify, DeadLetter, ProducerSettings, Shoal, Status
from shoal.jobs import JobMessage
from shoal.wire import DEAD, QUEUE, RESULT_PREFIX, parked

#: The version that workers and producers must go on working beside. To move it: put the commit of the new release here,
#: give `EXPECTED` and the trials what that release added, and leave all golden files where they are.
RELEASED = "39911ec43a6af1bbdce9a0d8d1659176208dc2c8"

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
GOLDEN = Path("tests/contract/golden")

#: What every producer sees with every worker, by trial (`producer_trials.py`).
EXPECTED: dict[str, Any] = {
    "classify": ["billing", 1, 1, True, True],
    "extract": ["2024-05-01", True],
    "rank": ["1", 3],
    "summarize": [True, True, True],
    "retry": ["billing", 3],
    "snooze": ["billing", 1],
    "cancelled_in_flight": [True, False, "cancelled", "cancelled"],
    "cancelled_while_parked": [True, False, "cancelled", "cancelled"],
    "expired": ["expired", 1],
    "died_and_replayed": [["request_refused", 2, True], ["request_refused", 2, "classify", True], True, 1],
    "joined": [False, True, True, True, 1],
    "conflict": "refused",
    "mapped": 30,
}

#: A worker that says first whose code it is.
WORKER = """
import runpy, shoal, shoal_worker
print("code:", shoal.__file__, shoal_worker.__file__, flush=True)
runpy.run_module("shoal_worker", run_name="__main__", alter_sys=True)
"""

PRODUCER = """
import sys
import shoal
from shoal import Classify, Shoal
print(shoal.__file__)
with Shoal() as client:
    for line in sys.stdin:
        print(client.enqueue(Classify(text=line, labels=("billing", "bug"))).id)
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The released version's files."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed, so the released version cannot be unpacked")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", RELEASED], capture_output=True, check=False
    )
    if archive.returncode != 0:
        pytest.skip(f"this checkout does not have the released commit {RELEASED[:12]}: {archive.stderr.decode()[:200]}")
    folder = tmp_path_factory.mktemp("released")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def path_to(tree: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{tree / 'producers'}:{tree / 'worker'}"}


def workers_of(tree: Path, workers: Workers, **environ: str) -> Workers:
    """Those of one version; they end with all others of the test."""
    return replace(workers, environ=workers.environ | path_to(tree) | environ, command=("-c", WORKER))


def code_of(workers: Workers, number: int) -> bytes:
    """Where a worker said that its code comes from."""
    return next(line for line in workers.log(number).splitlines() if line.startswith(b"code: "))


def answers_of(tree: Path, environ: dict[str, str], script: str, *words: str) -> dict[str, Any]:
    """What a script said under one version's code, which it proves to have run."""
    command = [sys.executable, str(HERE / script), *words]
    done = subprocess.run(
        command, env=environ | path_to(tree), capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert Path(said["code"]).is_relative_to(tree), f"the code under test is not that of {tree}"
    answers: dict[str, Any] = said["answers"]
    return answers


def other_than(expected: Any, seen: Any, place: str) -> Iterator[str]:
    """What two JSON values that both sides know differ in; fields that only one side knows are left out."""
    if isinstance(expected, dict) and isinstance(seen, dict):
        for name in expected.keys() & seen.keys():
            yield from other_than(expected[name], seen[name], f"{place}.{name}")
    elif isinstance(expected, list) and isinstance(seen, list) and len(expected) == len(seen):
        for number, (one, other) in enumerate(zip(expected, seen, strict=True)):
            yield from other_than(one, other, f"{place}[{number}]")
    elif isinstance(expected, dict) and isinstance(seen, str):
        yield f"{place}: {seen}"
    elif expected != seen:
        yield f"{place}: {expected!r} became {seen!r}"


def gone(older: Any, newer: Any, place: str) -> Iterator[str]:
    """Fields of an older form that the newer one has no more."""
    if isinstance(older, dict) and isinstance(newer, dict):
        yield from (f"{place}.{name} is gone" for name in older.keys() - newer.keys())
        for name in older.keys() & newer.keys():
            yield from gone(older[name], newer[name], f"{place}.{name}")


def told(differences: list[str]) -> str:
    return "\n".join(["the versions do not work together:", *sorted(differences)])


@pytest.mark.parametrize(("producer", "worker"), [("released", "this"), ("this", "released")])
def test_a_producer_of_one_version_works_with_a_worker_of_the_other(
    released: Path, workers: Workers, client: "redis.Redis", producer: str, worker: str
) -> None:
    trees = {"released": released, "this": ROOT}
    workers_of(trees[worker], workers).start()
    assert str(trees[worker]).encode() in code_of(workers, 0)
    seen = answers_of(trees[producer], workers.environ, "producer_trials.py")
    assert seen.keys() == EXPECTED.keys()
    differences = [
        f"{trial}: expected {EXPECTED[trial]!r}, and a producer of {producer} version with a worker of {worker} "
        f"version saw {seen[trial]!r}"
        for trial in EXPECTED
        if seen[trial] != EXPECTED[trial]
    ]
    assert not differences, told(differences)
    eventually(lambda: client.hlen("unacked") == client.zcard(parked(QUEUE)) == 0, what="all messages acknowledged")
    assert b"delivery_failed" not in workers.log()
    assert b"worker_bug" not in workers.log()


@pytest.mark.parametrize("killed", ["released", "this"])
def test_workers_of_both_versions_share_a_queue_and_one_takes_over_from_the_other(
    released: Path, workers: Workers, sandbox: Sandbox, client: "redis.Redis", killed: str
) -> None:
    sandbox.scenario(latency_seconds=1.0)
    workers.environ["SHOAL_SIGNING_KEYS"] = "a key that all of them have"
    trees = {"released": released, "this": ROOT}
    short = {"lease_seconds": 5, "visibility_timeout_seconds": 8, "concurrency": 20}
    processes = {name: workers_of(tree, workers).start(**short) for name, tree in trees.items()}
    for number, tree in enumerate(trees.values()):
        assert str(tree).encode() in code_of(workers, number)

    ids = [
        job_id
        for number, tree in enumerate(trees.values())
        for job_id in enqueued(tree, workers.environ, range(100 * number, 100 * number + 100))
    ]
    assert len(set(ids)) == 200
    with Celery(broker=workers.valkey, set_as_current=False) as app:
        inspect = app.control.inspect(timeout=5, limit=2)
        eventually(lambda: sum(map(bool, said(inspect.active).values())) == 2, what="both at work")
    eventually(lambda: sandbox.bill()["billed_calls"] >= 100, what="half of the answers")
    processes[killed].kill()
    processes[killed].wait()

    signing = SecretStr(workers.environ["SHOAL_SIGNING_KEYS"])
    with Shoal(ProducerSettings(redis_url=SecretStr(workers.valkey), signing_keys=signing)) as shoal:
        for job_id in ids:
            outcome = shoal.outcome(job_id, 60)
            assert (outcome.job_id, outcome.result.label) == (job_id, "billing")
    eventually(lambda: client.hlen("unacked") == client.zcard(parked(QUEUE)) == 0, what="all messages acknowledged")
    assert len(client.keys(f"{RESULT_PREFIX}*")) == 200
    assert client.hlen(DEAD) == client.llen(QUEUE) == 0
    assert sandbox.bill()["billed_calls"] <= 200 + 20


def enqueued(tree: Path, environ: dict[str, str], numbers: range) -> list[str]:
    """Ids of jobs that a producer of one version has enqueued; one in five has to be tried again or to wait."""
    faults = {0: "[[fault:server_500*1]]", 5: "[[fault:upstream_429:2*1]]"}
    texts = "".join(f"I was charged twice, case {number}. {faults.get(number % 10, '')}\n" for number in numbers)
    done = subprocess.run(
        [sys.executable, "-c", PRODUCER],
        env=environ | path_to(tree),
        input=texts,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, *ids = done.stdout.splitlines()
    assert Path(code).is_relative_to(tree)
    return ids


def test_the_golden_files_of_each_version_are_read_by_the_other(released: Path, workers: Workers) -> None:
    ours, theirs = ROOT / GOLDEN, released / GOLDEN
    known = {path.name.partition(".v")[0] for path in theirs.iterdir()}
    differences: list[str] = []
    for reader, tree, folder in (("the released version", released, ours), ("this version", ROOT, theirs)):
        read = answers_of(tree, workers.environ, "golden_reader.py", str(folder))
        for path in folder.iterdir():
            # What the released version has no form for, such as a kind that is new here, it need not read.
            if path.name.partition(".v")[0] in known:
                written = json.loads(path.read_text())
                differences += other_than(written, read[path.name], f"{path.name} read by {reader}")
    assert not differences, told(differences)


def test_no_golden_file_has_changed_and_no_field_has_gone_since_the_release(released: Path) -> None:
    differences: list[str] = []
    for older in (released / GOLDEN).iterdir():
        path = ROOT / GOLDEN / older.name
        if not path.exists() or path.read_bytes() != older.read_bytes():
            differences.append(f"{older.name} was released and has changed")
        form = older.name.partition(".v")[0]
        for newer in (ROOT / GOLDEN).glob(f"{form}.v1*.json"):
            differences += gone(json.loads(older.read_text()), json.loads(newer.read_text()), newer.name)
    assert not differences, told(differences)


@pytest.mark.parametrize("first", ["released", "this"])
def test_a_job_tried_by_a_worker_of_one_version_dies_under_the_other_as_what_it_was(
    released: Path, workers: Workers, client: "redis.Redis", shoal: Shoal, first: str
) -> None:
    """The released version knows no history: it neither writes one nor stumbles over one."""
    trees = [released, ROOT] if first == "released" else [ROOT, released]
    worker = workers_of(trees[0], workers).start()
    args = Classify(text="I was charged twice. [[fault:upstream_429:6*1]] [[fault:bad_request*1]]", labels=("a", "b"))
    job = shoal.enqueue(args)
    eventually(lambda: job.status() == Status.RETRYABLE, what="its wait")
    (waiting,) = client.zrange(parked(QUEUE), 0, -1)
    assert (b"rate_limited" in waiting) == (first == "this")
    worker.kill()
    worker.wait()
    workers_of(trees[1], workers).start()
    eventually(lambda: job.status() == Status.DISCARDED, what="its death")
    letter = DeadLetter.model_validate_json(client.hget(DEAD, job.id) or b"", extra="ignore")
    assert (letter.cause, letter.attempts) == ("request_refused", 1)
    assert [tried.cause for tried in letter.history] == (["request_refused"] if first == "released" else [])
    message = JobMessage.model_validate(letter.message)
    assert (message.arguments(), message.snoozes) == (args, 1)
