"""Ranking by BM25 over the fenced documents; scores run from 0 to 3, the best document has 3."""

from collections import Counter
from collections.abc import Callable
from math import log
from typing import Any

from shoal_worker.sandbox.prompt_parts import fenced_blocks, terms
from shoal_worker.sandbox.validation import Ask

SCORE_MAX = 3.0
_K1, _B = 1.5, 0.75


def rank_plan(schema: dict[str, Any]) -> Callable[[Ask], dict[str, Any]] | None:
    """How to answer this schema; None when it is not that of rank."""
    items = schema.get("properties", {}).get("ranking", {}).get("items", {})
    if set(schema.get("properties", {})) != {"ranking"} or set(items.get("properties", {})) != {"id", "score"}:
        return None
    return _rank


def _rank(ask: Ask) -> dict[str, Any]:
    blocks = fenced_blocks(ask.user)
    documents = {block.number: block.text for block in blocks if block.sort == "document" and block.number is not None}
    query = " ".join(block.text for block in blocks if block.sort == "query") or ask.system
    scores = _bm25(terms(query), [terms(text) for text in documents.values()])
    best = max(scores, default=0.0) or 1.0
    ranking = [
        {"id": number, "score": round(SCORE_MAX * score / best, 2)}
        for number, score in zip(documents, scores, strict=True)
    ]
    return {"ranking": sorted(ranking, key=lambda one: (-one["score"], one["id"]))}


def _bm25(query: list[str], documents: list[list[str]]) -> list[float]:
    """The BM25 score of each document for the query."""
    mean = sum(map(len, documents)) / len(documents) if documents else 0.0
    counts = [Counter(document) for document in documents]
    asked = set(query)
    holding = {term: sum(term in count for count in counts) for term in asked}
    weight = {term: log(1 + (len(documents) - n + 0.5) / (n + 0.5)) for term, n in holding.items()}
    return [
        sum(
            weight[term] * count[term] * (_K1 + 1) / (count[term] + _K1 * (1 - _B + _B * len(document) / mean))
            for term in sorted(asked & count.keys())
        )
        for document, count in zip(documents, counts, strict=True)
    ]
