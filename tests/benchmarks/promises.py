"""What Shoal promises of its speed, beside what was found. A promise about what was not measured says nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

Found = dict[str, Any]
MAIN_AT_ONCE = "600"


@dataclass(frozen=True)
class Promise:
    """`read` picks the figure out of the results and raises `LookupError` or `ValueError` where it is not there."""

    name: str
    read: Callable[[Found], float]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    def kept(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def wanted(self) -> str:
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{sign} {bound:g}{self.unit}"


def rate(found: Found, key: str, at_once: str = MAIN_AT_ONCE) -> float:
    """The median of a contestant's runs, in jobs per second."""
    value: float = found["throughput"][key][at_once]["jobs_per_second"]
    return value


def best_rate(found: Found, keys: list[str]) -> float:
    """The best of several contestants, at whatever number at once suits each."""
    rows = found["throughput"]
    return max(float(row["jobs_per_second"]) for key in keys if key in rows for row in rows[key].values())


def paired(found: Found, key: str, other: Callable[[Found, int], float]) -> float:
    """Median over the rounds of one contestant's rate by another's of the same round."""
    rounds = found["throughput"][key][MAIN_AT_ONCE]["rounds"]
    return float(median(value / other(found, number) for number, value in enumerate(rounds)))


def bare(found: Found, number: int) -> float:
    value: float = found["throughput"]["bare_loop"][MAIN_AT_ONCE]["rounds"][number]
    return value


QUEUE_KEYS = ["taskiq", "taskiq_list", "streaq", "arq", "dramatiq"]


def best_queue(found: Found, number: int) -> float:
    """The best peer's rate in a round; a peer with fewer rounds counts with its last one."""
    rows = [found["throughput"][key][MAIN_AT_ONCE]["rounds"] for key in QUEUE_KEYS if key in found["throughput"]]
    return max(float(rounds[min(number, len(rounds) - 1)]) for rounds in rows)


def plain_rates(found: Found) -> list[str]:
    return [key for key in found["throughput"] if key.endswith("_plain") and key != "bare_loop_plain"]


def least_slots(found: Found) -> float:
    """The least share of slots in use at latencies from 0.5 to 3 s, both lanes."""
    shares = [
        float(row["slots_in_use"])
        for lane in ("shoal_bulk", "shoal_single")
        for latency, row in found["sweep"][lane].items()
        if 0.5 <= float(latency) <= 3
    ]
    return min(shares)


PROMISES = (
    Promise("bulk beside the bare loop", lambda f: paired(f, "shoal_bulk", bare), at_least=0.9, unit="x"),
    Promise("bulk beside the best queue", lambda f: paired(f, "shoal_bulk", best_queue), at_least=2.5, unit="x"),
    Promise(
        "single jobs beside the best queue", lambda f: paired(f, "shoal_single", best_queue), at_least=1.4, unit="x"
    ),
    Promise(
        "single jobs beside any peer with plain httpx",
        lambda f: rate(f, "shoal_single") / best_rate(f, plain_rates(f)),
        at_least=10,
        unit="x",
    ),
    Promise("enqueue, bulk", lambda f: f["enqueue"]["shoal_bulk"]["jobs_per_second"], at_least=20_000, unit="/s"),
    Promise("enqueue, single", lambda f: f["enqueue"]["shoal_single"]["jobs_per_second"], at_least=4_000, unit="/s"),
    Promise("idle, enqueue to result, p50", lambda f: f["latency"]["shoal_single"]["p50_ms"], at_most=10, unit=" ms"),
    Promise("idle, enqueue to result, p99", lambda f: f["latency"]["shoal_single"]["p99_ms"], at_most=40, unit=" ms"),
    Promise("slots in use, model latency 0.5 to 3 s", least_slots, at_least=0.95),
    Promise("cold to 1,000 slots", lambda f: f["filling"]["shoal_bulk"]["full_after_seconds"], at_most=3, unit=" s"),
    Promise("memory at 1,000 in flight", lambda f: f["filling"]["shoal_bulk"]["memory_mb"], at_most=250, unit=" MB"),
    Promise(
        "1M waiting beside the small backlog",
        lambda f: f["waiting"]["1000000"]["jobs_per_second"] / f["waiting"]["5000"]["jobs_per_second"],
        at_least=0.9,
        unit="x",
    ),
)


def verdicts(found: Found) -> list[dict[str, Any]]:
    """One row a promise: what is wanted, what was found, and whether that is kept (None: not measured)."""
    rows = []
    for promise in PROMISES:
        try:
            value: float | None = round(promise.read(found), 3)
        except (LookupError, ValueError):
            value = None
        kept = None if value is None else promise.kept(value)
        rows.append({"promise": promise.name, "wanted": promise.wanted, "found": value, "kept": kept})
    return rows
