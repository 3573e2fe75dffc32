"""Rank: graded relevance for every document, in one call where they fit, otherwise in batches at once.

Grades mean the same in every call (the prompt says what each stands for), so batches are merged by score, equals in
the order in which they were given. Inside one answer the scores decide as well, equals in the order of the answer: a
model that grades well and lists in the order of its reading is thus put right, and a score never contradicts a rank.
"""

from collections.abc import Awaitable, Iterator
from typing import Any

from shoal.jobs import Document, Rank, RankedDocument, RankResult
from shoal_worker.errors import Misfit
from shoal_worker.kinds.calls import MAX_CALL_TOKENS, all_answers, answer_cap, estimated_tokens
from shoal_worker.kinds.fence import fenced
from shoal_worker.kinds.shapes import array_member, as_integer, as_number, strict_array, strict_object
from shoal_worker.ports import Ask, Prompt
from shoal_worker.prompts import fill

SCHEMA_NAME = "shoal_rank"
#: An answer grows with its documents, and so do the time it takes and what the model forgets on the way.
MAX_CALL_DOCUMENTS = 200
MAX_SCORE = 3.0
PLAIN_RELEVANCE = "more relevant to the query."

#: Up to so many documents their numbers stand in the schema: a number that is none cannot be said.
MAX_LISTED = 100


def _schema(count: int) -> dict[str, Any]:
    number = {"type": "integer"} | ({"enum": list(range(1, count + 1))} if count <= MAX_LISTED else {})
    entry = strict_object({"id": number, "score": {"type": "number"}})
    return strict_object({"ranking": strict_array(entry, least=min(count, MAX_LISTED), most=count)})


_FRAME_TOKENS, _DOCUMENT_TOKENS = 48, 16


async def answer(args: Rank, ask: Ask) -> RankResult:
    batches = [args.model_copy(update={"documents": batch}) for batch in _batches(args)]
    if len(batches) == 1:
        return await _answer_batch(args, ask)
    return _merged(await all_answers([_answer_batch(batch, ask) for batch in batches]), args)


def render(args: Rank) -> Prompt:
    blocks = [fenced("document", document.text, f' id="{number}"') for number, document in enumerate(args.documents, 1)]
    return Prompt(
        system=fill("rank.v1", criterion=args.criterion.strip() or PLAIN_RELEVANCE),
        user="\n".join([fenced("query", args.query), *blocks]),
        schema_name=SCHEMA_NAME,
        schema=_schema(len(blocks)),
        max_completion_tokens=answer_cap(_FRAME_TOKENS + _DOCUMENT_TOKENS * len(blocks)),
    )


def parse(answer: Any, args: Rank) -> RankResult:
    """Always every document once. Raises Misfit only where no document can be recognised."""
    scores: dict[int, float] = {}
    repeated = set()
    for number, score in _scored_numbers(array_member(answer, "ranking"), len(args.documents)):
        if number in scores:
            repeated.add(number)
        else:
            scores[number] = score
    if not scores:
        raise Misfit(f"ranking must hold the document ids, 1 to {len(args.documents)}")
    order = sorted(scores, key=lambda number: -scores[number])
    missing = [number for number in range(1, len(args.documents) + 1) if number not in scores]
    return RankResult(
        ranking=tuple(_ranked(args, number, scores.get(number, 0.0)) for number in order + missing),
        top_k=args.top_k,
        repaired=tuple(args.documents[number - 1].id for number in sorted(repeated.union(missing))),
    )


def _answer_batch(args: Rank, ask: Ask) -> Awaitable[RankResult]:
    return ask(render(args), lambda said: parse(said, args))


def _scored_numbers(said: list[Any], count: int) -> Iterator[tuple[int, float]]:
    for item in said:
        entry = item if isinstance(item, dict) else {"id": item}
        number = as_integer(entry.get("id"))
        if number is not None and 1 <= number <= count:
            yield number, min(max(float(as_number(entry.get("score")) or 0.0), 0.0), MAX_SCORE)


def _ranked(args: Rank, number: int, score: float) -> RankedDocument:
    return RankedDocument(id=args.documents[number - 1].id, index=number - 1, score=score)


def _batches(args: Rank) -> list[tuple[Document, ...]]:
    """In the given order, each as full as one call allows; a document that is too long for any stands alone."""
    batches: list[list[Document]] = [[]]
    room = free = MAX_CALL_TOKENS - estimated_tokens(args.query)
    for document in args.documents:
        size = estimated_tokens(document.text)
        if batches[-1] and (size > free or len(batches[-1]) == MAX_CALL_DOCUMENTS):
            batches.append([])
            free = room
        batches[-1].append(document)
        free -= size
    return [tuple(batch) for batch in batches]


def _merged(results: list[RankResult], args: Rank) -> RankResult:
    scores = {document.id: document.score for result in results for document in result.ranking}
    ranked = [_ranked(args, place + 1, scores[document.id]) for place, document in enumerate(args.documents)]
    return RankResult(
        ranking=tuple(sorted(ranked, key=lambda document: (-document.score, document.index))),
        top_k=args.top_k,
        repaired=tuple(name for result in results for name in result.repaired),
    )
