"""The sandbox as a process: the bill, the records and the response cache."""

import asyncio
import time
from hashlib import sha256

import aiohttp
import pytest
from sandbox_process import (  # noqa: F401 fixtures
    CHAT,
    KEY,
    TEXT,
    Answer,
    Running,
    classify,
    encoded,
    fetch,
    process,
    sandbox,
)

from shoal_worker.sandbox.ledger import Ledger
from shoal_worker.sandbox.metering import Usage

# The bill and the records


def test_a_request_is_recorded_with_its_job_its_cost_and_the_hash_of_its_body(sandbox: Running) -> None:
    answer = sandbox.chat(classify())
    (record,) = sandbox.records()
    assert record["generation_id"] == answer.json["id"]
    assert record["body_sha256"] == sha256(encoded(classify())).hexdigest()
    assert (record["custom_id"], record["schema_name"], record["status"]) == ("job-1", "shoal_classify", 200)
    assert (record["billed"], record["cost_usd"], record["usage"]["cost"]) == (
        True,
        answer.json["usage"]["cost"],
        answer.json["usage"]["cost"],
    )
    assert record["arrived_at"] == pytest.approx(time.time(), abs=60)


def test_neither_texts_nor_keys_are_recorded_unless_bodies_are_asked_for(sandbox: Running) -> None:
    sandbox.chat(classify())
    assert b"charged twice" not in sandbox.call("GET", "/sandbox/requests").body
    sandbox.play(keep_bodies=True)
    sandbox.chat(classify())
    recorded = sandbox.call("GET", "/sandbox/requests").body
    assert b"charged twice" in recorded
    assert b"sk-or-v1" not in recorded


def test_records_can_be_picked_by_job_and_from_the_end(sandbox: Running) -> None:
    for job in ("a", "b", "a", "c"):
        sandbox.chat(classify(custom_id=job))
    picked = sandbox.call("GET", "/sandbox/requests?custom_id=a").json["requests"]
    assert [record["custom_id"] for record in picked] == ["a", "a"]
    latest = sandbox.call("GET", "/sandbox/requests?last=2").json["requests"]
    assert [record["custom_id"] for record in latest] == ["a", "c"]


def test_a_client_that_leaves_before_the_reply_is_billed_all_the_same(sandbox: Running) -> None:
    sandbox.play(latency_seconds=0.5)

    async def ask_and_leave(session: aiohttp.ClientSession) -> None:
        task = asyncio.ensure_future(fetch(session, "POST", sandbox.root + CHAT, encoded(classify())))
        await asyncio.to_thread(sandbox.await_records, bool)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    sandbox.with_session(ask_and_leave)
    (record,) = sandbox.await_records(lambda records: records[0]["client_disconnected"])
    assert (record["billed"], record["status"]) == (True, 200)
    assert sandbox.bill()["billed_by_custom_id"] == {"job-1": 1}


def test_hundreds_of_requests_are_held_at_once(sandbox: Running) -> None:
    sandbox.play(latency_seconds=1.0, jitter_seconds=0.1)

    async def many(session: aiohttp.ClientSession) -> list[Answer]:
        jobs = [fetch(session, "POST", sandbox.root + CHAT, encoded(classify(custom_id=str(n)))) for n in range(300)]
        return await asyncio.gather(*jobs)

    async def with_room(_session: aiohttp.ClientSession) -> list[Answer]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=KEY, connector=connector) as session:
            return await many(session)

    assert {answer.status for answer in sandbox.with_session(with_room)} == {200}
    bill = sandbox.bill()
    assert (bill["most_in_flight"] > 200, bill["in_flight"], bill["billed_calls"]) == (True, 0, 300)


def test_the_in_flight_budget_refuses_what_has_no_room_and_lets_it_in_later(sandbox: Running) -> None:
    # A request holds its 500 completion tokens' price: USD 0.000625 and a little for its prompt.
    sandbox.play(latency_seconds=0.3, in_flight_budget_usd=0.0014)

    async def three(session: aiohttp.ClientSession) -> list[Answer]:
        return await asyncio.gather(
            *(fetch(session, "POST", sandbox.root + CHAT, encoded(classify())) for _ in range(3))
        )

    answers = sandbox.with_session(three)
    (refused,) = [answer for answer in answers if answer.status != 200]
    assert (refused.status, refused.headers["Retry-After"]) == (402, "2")
    assert refused.error["metadata"]["reason"] == "in_flight_budget_exhausted"
    deadline = time.monotonic() + 20
    while sandbox.chat(classify()).status != 200:
        assert time.monotonic() < deadline


def test_a_capacity_refuses_what_is_beyond_it_and_can_be_changed(sandbox: Running) -> None:
    sandbox.play(capacity_per_second=3)
    answers = [sandbox.chat(classify()) for _ in range(12)]
    statuses = [answer.status for answer in answers]
    assert statuses[:3] == [200, 200, 200]
    assert statuses.count(429) >= 6
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.error["metadata"]["limit_source"] == "upstream_provider_shared_pool"
    assert "Retry-After" not in refused.headers
    sandbox.play()
    assert {sandbox.chat(classify()).status for _ in range(12)} == {200}


def test_the_ledger_forgets_the_oldest_and_keeps_the_sums() -> None:
    ledger = Ledger(requests_kept=2)
    for number in range(5):
        record = ledger.open(f"gen-{number}", b"", 0.0, keep_body=False)
        record.custom_id = f"job-{number % 3}"
        ledger.bill(record, Usage(prompt_tokens=5))
        ledger.close(record, 1.0)
    summary = ledger.summary()
    assert [record.generation_id for record in ledger.records] == ["gen-3", "gen-4"]
    assert (summary["requests"], summary["billed_calls"], summary["cost_usd"]) == (5, 5, 5e-06)
    assert summary["billed_by_custom_id"] == {"job-0": 1, "job-1": 1}


# The response cache


def test_an_identical_request_is_replayed_free_of_charge(sandbox: Running) -> None:
    first, second = (sandbox.chat(classify(), X_OpenRouter_Cache="true") for _ in range(2))
    assert [one.headers["X-OpenRouter-Cache-Status"] for one in (first, second)] == ["MISS", "HIT"]
    assert second.headers["X-OpenRouter-Cache-Source-Id"] == first.json["id"] != second.json["id"]
    assert second.json["choices"] == first.json["choices"]
    assert (second.json["usage"]["total_tokens"], second.json["usage"]["cost"]) == (0, 0)
    bill = sandbox.bill()
    assert (bill["requests"], bill["billed_calls"], bill["cost_usd"]) == (2, 1, first.json["usage"]["cost"])


@pytest.mark.parametrize(
    "headers",
    [
        {"X_OpenRouter_Cache": "false"},
        {"X_OpenRouter_Cache": "true", "Authorization": "Bearer another"},
        {"X_OpenRouter_Cache": "true", "X_OpenRouter_Cache_Clear": "true"},
    ],
)
def test_another_key_another_wish_or_a_clearing_asks_the_model_again(sandbox: Running, headers: dict[str, str]) -> None:
    sandbox.chat(classify(), X_OpenRouter_Cache="true")
    answer = sandbox.chat(classify(), **headers)
    assert answer.headers.get("X-OpenRouter-Cache-Status") != "HIT"
    assert sandbox.bill()["billed_calls"] == 2


def test_a_stored_answer_ends_with_its_time_to_live(sandbox: Running) -> None:
    cached = {"X_OpenRouter_Cache": "true", "X_OpenRouter_Cache_TTL": "1"}
    sandbox.chat(classify(), **cached)
    deadline = time.monotonic() + 20
    while sandbox.chat(classify(), **cached).headers["X-OpenRouter-Cache-Status"] == "HIT":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sandbox.chat(classify(), X_OpenRouter_Cache="true", X_OpenRouter_Cache_TTL="0").status == 400


def test_errors_are_not_stored(sandbox: Running) -> None:
    request = classify(f"[[fault:server_500*1]] {TEXT}")
    statuses = [sandbox.chat(request, X_OpenRouter_Cache="true").status for _ in range(2)]
    assert statuses == [500, 200]
