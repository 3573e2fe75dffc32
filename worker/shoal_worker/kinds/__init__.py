"""How each kind of job is put to a model, and how its answer is read."""

from collections.abc import Awaitable, Callable
from typing import Any

from shoal.jobs import Result
from shoal_worker.kinds import classify, extract, rank, summarize
from shoal_worker.ports import Ask

#: By wire name. Each takes the kind's own arguments, asks once or several times, and gives the kind's own result.
ANSWERS: dict[str, Callable[[Any, Ask], Awaitable[Result]]] = {
    "classify": classify.answer,
    "extract": extract.answer,
    "rank": rank.answer,
    "summarize": summarize.answer,
}
