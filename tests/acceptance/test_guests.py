"""Producers that are not ours: any Celery client can queue a job under an id of its own, and read the answer."""

import hmac
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from conftest import Kept, Sandbox, Workers, both_stores, eventually
from shoal import Classify, JobCancelled, JobFailed, Shoal

ASKED = {"text": "I was charged twice", "labels": ["billing", "bug"]}
README = Path(__file__).parents[2] / "producers" / "README.md"


def example(language: str) -> str:
    """What the documentation shows in a language."""
    found = re.search(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def client(valkey: str) -> Celery:
    """Celery's own client, which knows nothing of us."""
    with Celery(broker=valkey, backend=valkey, set_as_current=False) as app:
        yield app


def send(client: Celery, task_id: str, **fields: Any) -> Any:
    return client.send_task("shoal.classify", kwargs=fields, queue="shoal", task_id=task_id)


def test_an_answer_comes_under_the_clients_own_id(client: Celery, workers: Workers) -> None:
    workers.start()
    outcome = send(client, "order-4711", args=ASKED).get(timeout=20)
    assert outcome["job_id"] == "order-4711"
    assert outcome["result"]["labels"][0]["name"] in ASKED["labels"]
    assert outcome["queue_seconds"] > 0


@both_stores
def test_the_same_work_is_one_paid_call_whoever_sends_it(
    client: Celery, workers: Workers, sandbox: Sandbox, shoal: Shoal
) -> None:
    sandbox.scenario(latency_seconds=0.5)
    workers.start()
    ours = shoal.enqueue(Classify(text=ASKED["text"], labels=("billing", "bug")))
    for number in range(5):
        send(client, f"mine-{number}", args=ASKED)
    answer = ours.result(20)
    others = [shoal.job(f"mine-{number}").result(20) for number in range(5)]
    assert others == [answer] * 5
    assert shoal.enqueue(Classify(text=ASKED["text"], labels=("billing", "bug"))).joined
    assert sandbox.bill()["requests"] == 1


def test_a_retry_and_a_tenant_and_a_key_of_its_own(client: Celery, workers: Workers, sandbox: Sandbox) -> None:
    workers.start()
    text = f"{ASKED['text']} [[fault:server_500*1]]"
    asked = {"args": {**ASKED, "text": text}, "tenant": "acme", "idempotency_key": "order 7"}
    result = send(client, "mine", **asked)
    assert result.get(timeout=20)["attempts"] == 2


@both_stores
def test_who_comes_late_gets_the_answer_that_is_there(client: Celery, workers: Workers, shoal: Shoal) -> None:
    workers.start()
    answer = shoal.enqueue(Classify(text=ASKED["text"], labels=("billing", "bug"))).result(20)
    send(client, "late", args=ASKED)
    assert shoal.job("late").result(20) == answer


def test_a_worker_that_dies_in_the_middle_leaves_the_client_its_answer(
    client: Celery, workers: Workers, sandbox: Sandbox, tmp_path: Path
) -> None:
    workers.command = (str(Path(__file__).parent / "dying_worker.py"),)
    workers.environ |= {
        "SHOAL_TEST_DIES_AT": "after send",
        "SHOAL_TEST_DIES_THERE": "0",
        "SHOAL_TEST_DEATH_NOTE": str(tmp_path / "death"),
        "SHOAL_VISIBILITY_TIMEOUT_SECONDS": "2",
        "SHOAL_LEASE_SECONDS": "1",
    }
    worker = workers.start()
    result = send(client, "mine", args=ASKED)
    worker.wait(20)
    assert result.state == "PENDING"
    workers.start()
    assert result.get(timeout=20)["job_id"] == "mine"


@both_stores
def test_whoever_asked_is_told_when_the_job_is_cancelled(
    client: Celery, workers: Workers, sandbox: Sandbox, shoal: Shoal, valkey: str
) -> None:
    sandbox.scenario(latency_seconds=30.0)
    workers.start()
    job = shoal.enqueue(Classify(text=ASKED["text"], labels=("billing", "bug")))
    send(client, "mine", args=ASKED)
    with redis.Redis.from_url(valkey) as server:
        # The job's own message is left.
        eventually(
            lambda: (server.llen("shoal"), server.hlen("unacked")) == (0, 1), what="the guest's message taken in"
        )
    assert job.cancel()
    with pytest.raises(JobCancelled):
        shoal.job("mine").result(20)


def test_where_messages_are_signed_a_client_signs_as_the_documentation_says(client: Celery, workers: Workers) -> None:
    workers.start(signing_keys="first,second")
    fields = {"args": {**ASKED, "text": "Zweimal für Größe L bezahlt"}}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    signature = hmac.new(b"first", text.encode(), "sha256").hexdigest()
    options = {"kwargs": fields, "queue": "shoal"}
    signed = client.send_task("shoal.classify", **options, task_id="mine", headers={"shoal_signature": signature})
    assert signed.get(timeout=20)["job_id"] == "mine"
    client.send_task("shoal.classify", **options, task_id="other")
    eventually(lambda: b"forged_message" in workers.log(), what="the unsigned one refused")


def test_a_key_that_is_used_for_other_work_is_refused(client: Celery, workers: Workers, shoal: Shoal) -> None:
    workers.start()
    send(client, "first", args=ASKED, idempotency_key="order 7").get(timeout=20)
    second = send(client, "second", args={**ASKED, "text": "It crashed"}, idempotency_key="order 7")
    with pytest.raises(JobFailed, match="it is used for other work"):
        second.get(timeout=20)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"args": {"text": "a text"}}, "labels: Field required"),
        ({"args": ASKED, "colour": "blue"}, "colour: Extra inputs are not permitted"),
        ({"args": ASKED, "tenant": "a/b"}, "tenant: String should match pattern"),
        ({"args": ASKED, "expires_in_seconds": -1}, "expires_in_seconds must be more than 0"),
        ({}, "args: Field required"),
        ({"args": ASKED, "fresh": True}, "fresh: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_named_and_becomes_a_dead_letter(
    client: Celery, workers: Workers, kept: Kept, fields: dict[str, Any], reason: str
) -> None:
    workers.start()
    result = send(client, "mine", **fields)
    eventually(lambda: result.state == "FAILURE", what="a failure")
    [letter] = kept.letters().values()
    assert reason in json.loads(letter)["reason"]
    assert ASKED["text"] not in json.loads(letter)["reason"]


def test_node_queues_a_job_and_reads_its_answer(workers: Workers, valkey: str, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if not (npm and node):
        pytest.skip("node and npm are not installed")
    subprocess.run([npm, "install", "--silent", "--no-audit", "celery-node"], cwd=tmp_path, check=True)
    workers.start()
    (tmp_path / "ask.js").write_text(example("js").replace("redis://127.0.0.1:6379/0", valkey))
    done = subprocess.run([node, "ask.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    label, cost_usd = done.stdout.split()
    assert label in ASKED["labels"]
    assert float(cost_usd) > 0


def test_the_message_that_the_documentation_shows_is_answered(client: Celery, workers: Workers, valkey: str) -> None:
    workers.start()
    message = json.loads(example("json"))
    with redis.Redis.from_url(valkey) as server:
        server.lpush("shoal", json.dumps(message))
    assert client.AsyncResult(message["headers"]["id"]).get(timeout=20)["result"]["labels"]


def test_celerys_remote_control_tells_no_text_of_jobs_that_wait_or_run(
    client: Celery, workers: Workers, sandbox: Sandbox, shoal: Shoal
) -> None:
    sandbox.scenario(latency_seconds=5.0)
    workers.start(concurrency=1)
    ours = [shoal.enqueue(Classify(text=f"{ASKED['text']} {number}", labels=("billing", "bug"))) for number in range(2)]
    send(client, "theirs", args=ASKED)

    def told() -> str:
        inspect = client.control.inspect()
        return str([inspect.reserved(), inspect.active(), inspect.query_task(ours[0].id, ours[1].id, "theirs")])

    said = eventually(lambda: text if all(job.id in (text := told()) for job in ours) else None, what="both jobs told")
    assert "'attempt': 1" in said
    assert ASKED["text"] not in said
