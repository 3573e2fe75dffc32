"""Summaries by choice: the numbered sentences that share most words with the rest, the first ones favoured."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from shoal_worker.sandbox.prompt_parts import cut, only_text, sentences, terms
from shoal_worker.sandbox.validation import Ask

SENTENCES_WHEN_UNSAID = 3
_NUMBERED = re.compile(r"^\[(\d{1,9})\] (.*\S.*)$", re.MULTILINE)
_SENTENCES_ASKED = re.compile(r"at most (\d{1,9}) sentences?")
_WORDS_ASKED = re.compile(r"about (\d{1,9}) words?")
_LEAD_BONUS = 0.25
#: What a very short sentence counts for, with its numbers and punctuation.
_LEAST_WORDS = 3
#: In scripts without spaces a sentence is one word, and its length is told by its bytes.
_WORD_BYTES = 14


def summarize_plan(schema: dict[str, Any]) -> Callable[[Ask], dict[str, Any]] | None:
    """How to answer this schema; None when it is not that of summarize."""
    properties = schema.get("properties", {})
    items = properties.get("sentences", {}).get("items", {})
    if set(properties) != {"sentences"} or set(items.get("properties", {})) != {"sources", "text"}:
        return None
    return _summarize


def _summarize(ask: Ask) -> dict[str, Any]:
    text = only_text(ask.user)
    source = [(int(number), sentence.strip()) for number, sentence in _NUMBERED.findall(text)]
    if not source:
        source = list(enumerate(sentences(text), start=1))
    chosen = _choose(_by_weight(source), ask.system)
    return {"sentences": [{"sources": [number], "text": sentence} for number, sentence in sorted(chosen)]}


def _by_weight(source: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The sentences, weightiest first: a sentence weighs as much as its words are common to others."""
    bags = [set(terms(sentence)) for _, sentence in source]
    common = Counter(term for bag in bags for term in bag)

    def weight(place: int) -> float:
        bag = bags[place]
        shared = sum(common[term] - 1 for term in bag) / (len(bag) + 3)
        return shared + _LEAD_BONUS / (place + 1)

    return [source[place] for place in sorted(range(len(source)), key=weight, reverse=True)]


def _choose(weighty: list[tuple[int, str]], system: str) -> list[tuple[int, str]]:
    words = _WORDS_ASKED.search(system)
    if words is None:
        asked = _SENTENCES_ASKED.search(system)
        return weighty[: int(asked[1]) if asked else SENTENCES_WHEN_UNSAID]
    chosen: list[tuple[int, str]] = []
    room = int(words[1])
    for number, sentence in weighty:
        length = _length_words(sentence)
        if length <= room:
            chosen.append((number, sentence))
            room -= length
    return chosen or [(number, _shortened(sentence, int(words[1]))) for number, sentence in weighty[:1]]


def _length_words(sentence: str) -> int:
    return max(_LEAST_WORDS, len(sentence.split()), len(sentence.encode()) // _WORD_BYTES)


def _shortened(sentence: str, words: int) -> str:
    """The beginning of a sentence that is longer than the whole summary may be."""
    return cut(" ".join(sentence.split()[:words]), words * _WORD_BYTES)
