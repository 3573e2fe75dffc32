"""What people see in Flower, in a real browser: workers and jobs, sizes and costs, and no text of anybody's."""

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr

from conftest import Kept, Sandbox, Workers, eventually
from shoal import Classify, Extract, Job, JobCancelled, JobFailed, Rank, Shoal, Status, Summarize
from shoal_worker import services

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, HttpCredentials, Page, expect, sync_playwright

CHROMIUM = Path(os.environ.get("SHOAL_TEST_CHROMIUM", "/usr/bin/chromium"))
SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PASSWORD = SecretStr("only-for-this-test")
WORKER = f"w0@{socket.gethostname()}"
CONCURRENCY = 7

TEXT = "Wolverhampton ordered marzipan on 2024-05-01. It was charged twice. The quokka never answered."
LABELS = ("zeppelins", "umbrellas")
#: Words of the texts, and all that an answer can be made of.
PRIVATE = ("Wolverhampton", "marzipan", "2024-05-01", "charged", "quokka", *LABELS)
DATE = {"type": "object", "properties": {"date": {"type": "string"}}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not there; install chromium, or name another in SHOAL_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield chromium
        chromium.close()


@dataclass
class Watched:
    """A Flower with a password: without one it lets nobody change anything."""

    tree: services.Services
    options: tuple[str, ...]
    address: str = ""

    def start(self) -> None:
        port = int(self.address.rpartition(":")[2] or services.free_port())
        self.address = services.start_flower(self.tree, port, *self.options)

    def command_line(self) -> bytes:
        return Path(f"/proc/{self.tree.started[-1].process.pid}/cmdline").read_bytes()


@pytest.fixture
def flower(request: pytest.FixtureRequest, valkey: str, tmp_path: Path) -> Iterator[Watched]:
    secret = tmp_path / "login"
    secret.write_text(f"tester:{PASSWORD.get_secret_value()}\n")
    login = {"FLOWER_BASIC_AUTH_FILE": str(secret)}
    tree = services.Services({**services.environment(redis_url=valkey), **login}, tmp_path)
    watched = Watched(tree, getattr(request, "param", ()))
    try:
        watched.start()
        yield watched
    finally:
        tree.stop()


with_options = partial(pytest.mark.parametrize, "flower", indirect=True, ids=" ".join)


@pytest.fixture
def page(browser: Browser, flower: Watched, workers: Workers, tmp_path: Path) -> Iterator[Page]:
    """A page that shows the worker online. No page may have an error, and Flower may log none."""
    # Flower's API refuses without asking for a login, so what asks it directly has to bring one.
    login: HttpCredentials = {"username": "tester", "password": PASSWORD.get_secret_value(), "send": "always"}
    with browser.new_context(base_url=flower.address, http_credentials=login) as context:
        page, faults = context.new_page(), list[str]()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("response", lambda reply: faults.append(reply.url) if reply.status >= 400 else None)
        workers.start(concurrency=CONCURRENCY)
        eventually(lambda: "Online" in shown(page, "/workers", WORKER), what="a worker online")
        yield page
        assert not faults
    said = (tmp_path / "flower.log").read_text()
    assert "Traceback" not in said
    assert " ERROR " not in said


def shown(page: Page, path: str, wanted: str | re.Pattern[str] = "") -> str:
    """What a page says once it holds some words. Never anything private, not even in its markup."""
    page.goto(path)
    body = page.locator("body")
    expect(body).to_contain_text(wanted)
    markup = page.content()
    assert not [word for word in PRIVATE if word in markup]
    return body.inner_text()


def tab(page: Page, name: str) -> str:
    """What a tab of the worker's page says."""
    shown(page, f"/worker/{WORKER}", WORKER)
    page.get_by_role("tab", name=name, exact=True).click()
    return page.locator(".tab-pane.active").inner_text()


def test_the_pool_grows_and_shrinks_from_the_workers_page(page: Page, valkey: str) -> None:
    assert "shoal" in tab(page, "Queues")
    assert re.search(rf"Max concurrency\s+{CONCURRENCY}\b", tab(page, "Pool"))
    with Celery(broker=valkey, set_as_current=False) as app:

        def size() -> tuple[int, int]:
            stats = app.control.inspect([WORKER]).stats()[WORKER]
            return stats["pool"]["max-concurrency"], stats["prefetch_count"]

        page.locator("#pool-size").fill("5")
        page.get_by_role("button", name="Grow").click()
        eventually(lambda: size() == (CONCURRENCY + 5, 2 * (CONCURRENCY + 5)), what="a larger pool")
        eventually(
            lambda: re.search(rf"Max concurrency\s+{CONCURRENCY + 5}\b", tab(page, "Pool")), what="it on the page"
        )
        page.locator("#pool-size").fill("5")
        page.get_by_role("button", name="Shrink").click()
        eventually(lambda: size() == (CONCURRENCY, 2 * CONCURRENCY), what="a smaller pool")


def test_jobs_are_listed_by_kind_with_sizes_and_costs_and_without_texts_or_answers(page: Page, shoal: Shoal) -> None:
    answered: list[Job[Any]] = [
        shoal.enqueue(Classify(text=TEXT, labels=LABELS)),
        shoal.enqueue(Extract(text=TEXT, fields=DATE)),
        shoal.enqueue(Rank(query="marzipan", documents=(TEXT, "a quokka", "umbrellas"))),
        shoal.enqueue(Summarize(text=TEXT, length_words=10)),
    ]
    refused = shoal.enqueue(Classify(text=f"{TEXT} [[fault:bad_request]]", labels=LABELS))
    for job in answered:
        job.result(30)
    with pytest.raises(JobFailed):
        refused.result(30)
    # Events take a moment to reach Flower: a list that is still empty has another text, and is loaded again.
    listed = re.compile("Showing|No tasks have been received")
    eventually(lambda: "Showing 1 to 5 of 5" in shown(page, "/tasks", listed), what="all jobs in the list")
    for kind in ("classify", "extract", "rank", "summarize"):
        row = page.get_by_role("row").filter(has_text=f"shoal.{kind}").filter(has_text="SUCCESS")
        expect(row).to_have_count(1)
    sizes = ("'labels': 2, 'kind': 'classify'", "'fields': 1, 'kind': 'extract'", "'documents': 3, 'kind': 'rank'")
    for job, size in zip(answered, (*sizes, "'kind': 'summarize'"), strict=True):
        details = shown(page, f"/task/{job.id}", "SUCCESS")
        assert re.search(rf"'tenant': '', {size}, 'attempt': 1, 'bytes': \d+}}", details)
        assert re.search(r"Result\s+'\d+\+\d+ tokens, \$0\.\d+, \S+'", details)
    assert "status 400" in shown(page, f"/task/{refused.id}", "FAILURE")
    tasks = tab(page, "Tasks")
    assert re.search(r"shoal\.classify\s+2\b", tasks)
    shown(page, "/broker", "shoal")


def test_a_job_that_waits_for_its_next_attempt_shows_retry_and_then_success_or_is_cancelled_there(
    page: Page, shoal: Shoal
) -> None:
    job, unwanted = (
        shoal.enqueue(Classify(text=f"{TEXT} [[fault:upstream_429:{seconds}*1]]", labels=LABELS)) for seconds in (5, 9)
    )

    def waits(waiting: Job[Any]) -> None:
        eventually(lambda: page.request.get(f"/task/{waiting.id}").ok, what="the job's page")
        eventually(lambda: "RETRY" in shown(page, f"/task/{waiting.id}", "Status"), what="a retry")

    waits(job)
    waits(unwanted)
    page.get_by_role("button", name="Revoke").click()
    job.result(30)
    eventually(lambda: "SUCCESS" in shown(page, f"/task/{job.id}", "Status"), what="a success")
    eventually(lambda: unwanted.status() == Status.CANCELLED, what="the other cancelled, when its time has come")


def test_a_running_job_is_listed_without_its_text(page: Page, shoal: Shoal, sandbox: Sandbox) -> None:
    sandbox.scenario(latency_seconds=5.0)
    job = shoal.enqueue(Classify(text=TEXT, labels=LABELS))
    eventually(lambda: job.id in tab(page, "Tasks"), what="the running job")
    assert re.search(r"'bytes': \d+}", page.locator(".tab-pane.active").inner_text())
    in_flight = r"Running\s+1\b[\s\S]*Calls\s+openai/gpt-5.4-nano, 1 in flight, 0 held back, no limit known"
    eventually(lambda: re.search(in_flight, tab(page, "Pool")), what="its call on the pool's page")


def test_jobs_that_wait_in_a_worker_and_those_of_other_clients_show_no_text_either(
    page: Page, shoal: Shoal, valkey: str, sandbox: Sandbox
) -> None:
    sandbox.scenario(latency_seconds=6.0)
    jobs = [shoal.enqueue(Classify(text=f"{TEXT} {number}", labels=LABELS)) for number in range(CONCURRENCY + 3)]
    asked = {"args": {"text": f"{TEXT} of theirs", "labels": list(LABELS)}}
    with Celery(broker=valkey, set_as_current=False) as stock:
        stock.send_task("shoal.classify", kwargs=asked, queue="shoal", task_id="theirs")
    eventually(lambda: page.request.get("/task/theirs").ok, what="the page of another client's job")
    assert "classify" in shown(page, "/task/theirs", "Status")
    eventually(lambda: re.search(r"Reserved tasks[\s\S]*shoal.classify", tab(page, "Tasks")), what="reserved tasks")
    shown(page, "/tasks", "theirs")
    with Celery(broker=valkey, set_as_current=False) as stock:
        asked_of_all = stock.control.inspect([WORKER])
        told = str([asked_of_all.reserved(), asked_of_all.active(), asked_of_all.query_task(jobs[0].id, "theirs")])
    assert jobs[-1].id in told
    assert not [word for word in PRIVATE if word in told]


def test_a_message_of_many_jobs_shows_what_became_of_them(page: Page, shoal: Shoal) -> None:
    markers = ["[[fault:bad_request]]", "[[fault:upstream_429:600]]", *[""] * 10]
    jobs = shoal.enqueue_many(
        Classify(text=f"{TEXT} {number} {marker}", labels=LABELS) for number, marker in enumerate(markers)
    )
    for job in jobs[2:]:
        job.result(30)
    ended = re.compile(
        r"12 jobs, 11 ended, 1 parked: 10 answered, 1 discarded, 1 request_refused, 1 snoozed; \d+\+\d+ tok"
    )
    eventually(lambda: ended.search(shown(page, "/tasks", "shoal.pack")), what="what became of them")
    row = page.get_by_role("row").filter(has_text="shoal.pack")
    expect(row).to_contain_text("{'jobs': 12, 'kind': 'classify', 'tenant': '', 'bytes': ")


def test_a_running_job_is_cancelled_from_its_page_and_its_call_is_closed(
    page: Page, shoal: Shoal, sandbox: Sandbox, kept: Kept
) -> None:
    sandbox.scenario(latency_seconds=8.0)
    job = shoal.enqueue(Classify(text=TEXT, labels=LABELS))
    eventually(lambda: sandbox.bill()["in_flight"] == 1, what="the call")
    eventually(lambda: page.request.get(f"/task/{job.id}").ok, what="the job's page")
    eventually(lambda: "STARTED" in shown(page, f"/task/{job.id}", "Status"), what="the job started")
    page.get_by_role("button", name="Terminate").click()
    eventually(lambda: job.status() == Status.CANCELLED, what="the job cancelled")
    with pytest.raises(JobCancelled):
        job.result(10)
    eventually(lambda: kept.open_calls() == 0, what="the call settled")
    assert kept.cost().maybe_calls == 1
    eventually(lambda: "REVOKED" in shown(page, f"/task/{job.id}", "Status"), what="it on the page")
    eventually(lambda: sandbox.requests()[0]["client_disconnected"], what="a provider that has seen the call closed")


@with_options([("--read-only",)])
def test_a_viewer_sees_everything_and_commands_nothing(page: Page, shoal: Shoal, sandbox: Sandbox) -> None:
    sandbox.scenario(latency_seconds=2.0)
    job = shoal.enqueue(Classify(text=TEXT, labels=LABELS))
    eventually(lambda: page.request.get(f"/task/{job.id}").ok, what="the job's page")
    eventually(lambda: "STARTED" in shown(page, f"/task/{job.id}", "Status"), what="the job started")
    expect(page.get_by_role("button", name="Terminate")).to_have_count(0)
    assert re.search(rf"Max concurrency\s+{CONCURRENCY}\b", tab(page, "Pool"))
    for button in ("Grow", "Shrink", "Actions"):
        expect(page.get_by_role("button", name=button)).to_have_count(0)
    commands = (f"task/revoke/{job.id}?terminate=true", f"worker/pool/shrink/{WORKER}?n=1", f"worker/shutdown/{WORKER}")
    for command in (*commands, "task/send-task/shoal.classify"):
        assert page.request.post(f"/api/{command}").status == 403
    assert job.result(30).label
    assert re.search(rf"Max concurrency\s+{CONCURRENCY}\b", tab(page, "Pool"))


def test_without_the_password_nothing_is_shown_and_the_password_is_in_no_command_line(
    browser: Browser, flower: Watched
) -> None:
    wrong: HttpCredentials = {"username": "tester", "password": "not-this-one", "send": "always"}
    with browser.new_context(base_url=flower.address, http_credentials=wrong) as context:
        reply = context.new_page().goto("/workers")
        assert reply
        assert (reply.status, reply.text()) == (401, "Access denied")
    for login in (None, wrong):
        with browser.new_context(base_url=flower.address, http_credentials=login) as context:
            for path in ("/", "/workers", "/tasks", "/broker", "/metrics", "/api/workers", "/api/tasks"):
                refused = context.request.get(path)
                assert refused.status == 401
                assert WORKER not in refused.text()
            assert context.request.post(f"/api/worker/shutdown/{WORKER}").status == 401
            assert context.request.get("/healthcheck").ok
    assert PASSWORD.get_secret_value().encode() not in flower.command_line()
    right: HttpCredentials = {"username": "tester", "password": PASSWORD.get_secret_value()}
    with browser.new_context(base_url=flower.address, http_credentials=right) as context:
        assert "flower_events_total" in context.request.get("/metrics").text()
        assert context.request.get("/workers").headers["x-frame-options"] == "DENY"


@with_options([("--persistent", "--data-dir", "kept")])
def test_what_it_remembers_outlives_it_and_holds_no_text(
    page: Page, flower: Watched, shoal: Shoal, tmp_path: Path
) -> None:
    job = shoal.enqueue(Classify(text=TEXT, labels=LABELS))
    job.result(30)
    eventually(lambda: page.request.get(f"/task/{job.id}").ok, what="the job's page")
    flower.tree.stop()
    kept = [path for path in (tmp_path / "kept" / "flower").iterdir() if path.name.startswith("state")]
    state = b"".join(path.read_bytes() for path in kept)
    assert job.id.encode() in state
    assert not [word for word in PRIVATE if word.encode() in state]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    flower.start()
    assert "SUCCESS" in shown(page, f"/task/{job.id}", "Status")
