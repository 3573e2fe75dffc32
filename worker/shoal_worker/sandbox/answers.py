"""Answers without a model: the rule that a schema's name calls for, and a filler for any other schema.

The same request always has the same answer, and the answer always fits the schema. How to answer a schema is worked
out once and remembered by its text.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from shoal_worker.sandbox.classify_rules import classify_plan
from shoal_worker.sandbox.extract_rules import extract_plan
from shoal_worker.sandbox.prompt_parts import first_sentence, only_text
from shoal_worker.sandbox.rank_rules import rank_plan
from shoal_worker.sandbox.schema_filler import filled
from shoal_worker.sandbox.summarize_rules import summarize_plan
from shoal_worker.sandbox.validation import Ask

Plan = Callable[[Ask], Any]

_PLANNERS: dict[str, Callable[[dict[str, Any]], Plan | None]] = {
    "shoal_classify": classify_plan,
    "shoal_extract": extract_plan,
    "shoal_rank": rank_plan,
    "shoal_summarize": summarize_plan,
}


def answer_value(ask: Ask) -> Any:
    """The answer as a JSON value; without a schema, a string."""
    if ask.schema_json is None:
        return first_sentence(only_text(ask.user)) or "Nothing was said."
    return _plan(ask.schema_name or "", ask.schema_json)(ask)


def content_of(value: Any) -> str:
    """The message content that says a value: plain text for a string, JSON for anything else."""
    return value if isinstance(value, str) else to_json(value).decode()


@lru_cache(maxsize=1024)
def _plan(schema_name: str, schema_json: bytes) -> Plan:
    schema = from_json(schema_json)
    planner = _PLANNERS.get(schema_name)
    plan = planner(schema) if planner else None
    return plan or (lambda ask: filled(schema, schema, first_sentence(only_text(ask.user))))
