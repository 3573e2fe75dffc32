"""Summarize: each sentence names the sentences of the text that it stands on.

The text goes to the model as numbered sentences. One that is too long for a call is cut into parts between
sentences; the notes on the parts, numbered in turn, are merged by one more call (and again while they are too long
for one). Whatever the number of rounds, sources lead back to the text itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.jobs import Span, Summarize, SummarizeResult, SummarySentence
from shoal_worker.errors import Misfit
from shoal_worker.kinds.calls import MAX_CALL_TOKENS, all_answers, answer_cap, estimated_tokens
from shoal_worker.kinds.fence import fenced
from shoal_worker.kinds.sentences import sentences
from shoal_worker.kinds.shapes import array_member, as_integer, as_text, member, strict_array, strict_object
from shoal_worker.ports import Ask, Prompt
from shoal_worker.prompts import fill

SCHEMA_NAME = "shoal_summarize"
#: Notes on a part keep enough to choose from when they are merged, however short the summary.
MIN_NOTE_WORDS = 200
MIN_SENTENCES, SHORT_SENTENCE_WORDS = 5, 5
_FRAME_TOKENS, _WORD_TOKENS = 128, 4

#: A sentence stands on few others; in a list without an end, small models repeat themselves.
MAX_SOURCES = 12


def _schema(words: int) -> dict[str, Any]:
    sentence = strict_object(
        {"sources": strict_array({"type": "integer"}, least=1, most=MAX_SOURCES), "text": {"type": "string"}}
    )
    return strict_object(
        {"sentences": strict_array(sentence, least=1, most=max(MIN_SENTENCES, words // SHORT_SENTENCE_WORDS))}
    )


_FORMS = {"prose": "flowing prose.", "bullets": "bullet points; each entry is one point, without a bullet."}


@dataclass(frozen=True, slots=True)
class Line:
    """What a model reads under one number: a sentence of the text, or a note on some of them."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one call reads and how. Notes are for a later call, which merges them."""

    lines: Sequence[Line]
    asset: str
    words: int
    notes: bool = False


async def answer(args: Summarize, ask: Ask) -> SummarizeResult:
    groups = _groups(_source_lines(args))
    parts, asset = len(groups), "summarize.v1"
    while len(groups) > 1:
        words = max(args.length_words, MIN_NOTE_WORDS)
        readings = [Reading(group, asset, words, notes=True) for group in groups]
        notes = await all_answers([_ask(reading, args, ask) for reading in readings])
        groups = _groups([Line(note.text, note.sources) for each in notes for note in each])
        asset = "summarize_merge.v1"
    told = await _ask(Reading(groups[0], asset, args.length_words), args, ask)
    return _result(told, args, parts)


def render(args: Summarize) -> Prompt:
    """The prompt of a text that fits one call."""
    return _render(_whole(args), args)


def parse(answer: Any, args: Summarize) -> SummarizeResult:
    """The answer to `render`. Raises Misfit."""
    return _result(_read(answer, _whole(args)), args, parts=1)


def _whole(args: Summarize) -> Reading:
    return Reading(_source_lines(args), "summarize.v1", args.length_words)


def _source_lines(args: Summarize) -> list[Line]:
    return [Line(span.quote, (span,)) for span in sentences(args.text)]


async def _ask(reading: Reading, args: Summarize, ask: Ask) -> tuple[SummarySentence, ...]:
    return await ask(_render(reading, args), lambda said: _read(said, reading))


def _render(reading: Reading, args: Summarize) -> Prompt:
    numbered = (f"[{number}] {' '.join(line.text.split())}" for number, line in enumerate(reading.lines, 1))
    return Prompt(
        system=fill(
            reading.asset,
            words=str(reading.words),
            form=_FORMS[args.style],
            language=args.language or "that of the text.",
            focus=args.focus.strip() or "what matters most in the text.",
        ),
        user=fenced("text", "\n".join(numbered)),
        schema_name=SCHEMA_NAME,
        schema=_schema(reading.words),
        max_completion_tokens=answer_cap(_FRAME_TOKENS + _WORD_TOKENS * reading.words),
    )


def _read(answer: Any, reading: Reading) -> tuple[SummarySentence, ...]:
    """Numbers of no line are dropped; a sentence may be left without sources, a whole summary may not."""
    told = [_sentence(item, place, reading.lines) for place, item in enumerate(array_member(answer, "sentences"))]
    told = [sentence for sentence in told if sentence.text]
    if not told:
        raise Misfit("sentences must hold at least one sentence with a text")
    if not any(sentence.sources for sentence in told):
        raise Misfit(f"sources must hold numbers of the given lines, 1 to {len(reading.lines)}")
    if reading.notes and 2 * _size(told) > _size(reading.lines):
        # Notes that do not shrink would be summarized for ever.
        raise Misfit(f"sentences must be shorter: about {reading.words} words in all")
    return tuple(told)


def _sentence(said: Any, place: int, lines: Sequence[Line]) -> SummarySentence:
    text = as_text(member(said, "text"))
    if text is None:
        raise Misfit(f"sentences[{place}].text must be a string")
    numbers = member(said, "sources")
    known = {as_integer(number) for number in numbers} if isinstance(numbers, list) else set()
    spans = {span for n in known if n is not None and 1 <= n <= len(lines) for span in lines[n - 1].spans}
    return SummarySentence(text=" ".join(text.split()), sources=tuple(sorted(spans, key=lambda span: span.start)))


def _size(lines: Sequence[Line] | Sequence[SummarySentence]) -> int:
    return sum(len(line.text) for line in lines)


def _groups(lines: Sequence[Line]) -> list[list[Line]]:
    """Neighbours together, no more groups than needed, all about as long: a short last part gets no say too many."""
    sizes = [estimated_tokens(line.text) for line in lines]
    total = sum(sizes)
    count = -(-total // MAX_CALL_TOKENS)
    groups: list[list[Line]] = [[] for _ in range(count)]
    before = 0
    for line, size in zip(lines, sizes, strict=True):
        groups[before * count // total].append(line)
        before += size
    return [group for group in groups if group]


def _result(told: Sequence[SummarySentence], args: Summarize, parts: int) -> SummarizeResult:
    texts = [sentence.text for sentence in told]
    summary = " ".join(texts) if args.style == "prose" else "\n".join(f"- {text}" for text in texts)
    return SummarizeResult(summary=summary, sentences=tuple(told), parts=parts)
