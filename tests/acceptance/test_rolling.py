"""A rolling restart under load: each worker drains while others go on, and nothing is lost or paid for twice."""

import threading
from functools import partial

from conftest import Kept, Sandbox, Workers, eventually
from shoal import Classify, Shoal

JOBS = 400


def test_three_workers_restarted_one_by_one_lose_nothing_and_pay_for_nothing_twice(
    workers: Workers, sandbox: Sandbox, shoal: Shoal, kept: Kept
) -> None:
    sandbox.scenario(latency_seconds=0.3, jitter_seconds=0.3)
    for _ in range(3):
        workers.start(concurrency=20)
    has_rolled = threading.Event()

    def flowed_since(answered: int) -> bool:
        return kept.answers() > answered

    def produce() -> None:
        """Some one by one, some in bulk, for as long as workers come and go."""
        for number in range(JOBS):
            question = Classify(text=f"I was charged twice by billing, case {number}.", labels=("billing", "bug"))
            if number % 2:
                shoal.enqueue(question)
            else:
                shoal.enqueue_many([question])
            if number > JOBS // 2:
                has_rolled.wait(0.05)

    producer = threading.Thread(target=produce)
    producer.start()
    for number in range(3):
        answered = kept.answers()
        eventually(partial(flowed_since, answered), what="jobs that flow")
        leaving = workers.processes[number]
        leaving.terminate()
        workers.start(concurrency=20)
        assert leaving.wait(30) == 0
    has_rolled.set()
    producer.join()
    eventually(lambda: kept.answers() == JOBS, 60, "all answers")
    eventually(lambda: kept.unfinished() == 0, what="nothing left of any")
    assert kept.letters() == {}
    assert sandbox.bill()["billed_calls"] == JOBS
    assert kept.cost().maybe_calls == 0
