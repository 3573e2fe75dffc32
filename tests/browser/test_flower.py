"""What people see in Flower, in a real browser: workers and jobs, sizes and costs, and no text of anybody's."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr

from conftest import Sandbox, Workers, eventually
from shoal import Classify, Extract, Job, JobFailed, Rank, Shoal, Summarize
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


@pytest.fixture
def flower(valkey: str, tmp_path: Path) -> Iterator[str]:
    """The address of a Flower with a password: without one it lets nobody change anything."""
    login = {"FLOWER_BASIC_AUTH": f"tester:{PASSWORD.get_secret_value()}"}
    tree = services.Services({**services.environment(redis_url=valkey), **login}, tmp_path)
    try:
        yield services.start_flower(tree, services.free_port())
    finally:
        tree.stop()


@pytest.fixture
def page(browser: Browser, flower: str, workers: Workers, tmp_path: Path) -> Iterator[Page]:
    """A page that shows the worker online. No page may have an error, and Flower may log none."""
    login: HttpCredentials = {"username": "tester", "password": PASSWORD.get_secret_value()}
    with browser.new_context(base_url=flower, http_credentials=login) as context:
        page, faults = context.new_page(), list[str]()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("response", lambda reply: faults.append(reply.url) if reply.status >= 400 else None)
        workers.start(concurrency=CONCURRENCY)
        eventually(lambda: "Online" in shown(page, "/workers", WORKER), what="a worker online")
        yield page
        assert not faults
    assert "Traceback" not in (tmp_path / "flower.log").read_text()


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
    for job in answered:
        details = shown(page, f"/task/{job.id}", "SUCCESS")
        assert re.search(r"'attempt': 1, 'bytes': \d+}", details)
        assert re.search(r"Result\s+'\d+\+\d+ tokens, \$0\.\d+, \S+'", details)
    assert "status 400" in shown(page, f"/task/{refused.id}", "FAILURE")
    tasks = tab(page, "Tasks")
    assert re.search(r"shoal\.classify\s+2\b", tasks)
    shown(page, "/broker", "shoal")


def test_a_job_that_waits_for_its_next_attempt_shows_retry_and_then_success(page: Page, shoal: Shoal) -> None:
    job = shoal.enqueue(Classify(text=f"{TEXT} [[fault:upstream_429:5*1]]", labels=LABELS))
    eventually(lambda: page.request.get(f"/task/{job.id}").ok, what="the job's page")
    eventually(lambda: "RETRY" in shown(page, f"/task/{job.id}", "Status"), what="a retry")
    job.result(30)
    eventually(lambda: "SUCCESS" in shown(page, f"/task/{job.id}", "Status"), what="a success")


def test_a_running_job_is_listed_without_its_text(page: Page, shoal: Shoal, sandbox: Sandbox) -> None:
    sandbox.scenario(latency_seconds=5.0)
    job = shoal.enqueue(Classify(text=TEXT, labels=LABELS))
    eventually(lambda: job.id in tab(page, "Tasks"), what="the running job")
    assert re.search(r"'bytes': \d+}", page.locator(".tab-pane.active").inner_text())
