"""Small jobs of each kind for the fault matrix; one call each, and a number that makes each its own work."""

from collections.abc import Callable
from typing import Any

from shoal import Args, Classify, Extract, Rank, Summarize

FIELDS = {"type": "object", "properties": {"date": {"type": "string"}, "total": {"type": "number"}}}
STORY = "Ann Smith paid $12.50 on 2024-05-01. The weather was fine. Nobody complained."

JOBS: dict[str, Callable[[object], Args[Any]]] = {
    "classify": lambda n: Classify(text=f"I was charged twice by billing, case {n}.", labels=("billing", "bug")),
    "extract": lambda n: Extract(text=f"{STORY} Case {n}.", fields=FIELDS),
    "rank": lambda n: Rank(query=f"cat food, case {n}", documents=("dogs bark", "the cat eats food", "fish")),
    "summarize": lambda n: Summarize(text=f"{STORY} Case {n}.", length_words=10),
}
