"""The matrix's own eyes: what it would call a double answer, on a real Valkey."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from matrix_stores import RedisStore
from matrix_watch import Watch

from shoal.wire import result_record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisStore]:
    opened = RedisStore(tmp_path)
    yield opened
    opened.stop()


def test_an_answer_that_changes_or_is_announced_again_is_a_double_one(store: RedisStore) -> None:
    watch = Watch(store, {"kept", "changed", "announced", "gone and other"})
    watch.look()
    for job_id in watch.jobs:
        store.client.set(result_record(job_id), "first")
        store.client.publish(result_record(job_id), "first")
    watch.look()
    assert watch.seen_at.keys() == watch.jobs
    assert watch.doubled == set()
    store.client.set(result_record("changed"), "second")
    store.client.publish(result_record("announced"), "first")
    store.client.delete(result_record("gone and other"))
    watch.look()
    store.client.set(result_record("gone and other"), "second")
    watch.look()
    assert watch.doubled == {"changed", "announced", "gone and other"}
