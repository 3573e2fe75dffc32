"""Classification by shared words: those of a label, of its description and of a small lexicon, against the text's."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Any

from shoal_worker.sandbox.prompt_parts import first_sentence, only_text, sentences, stem, terms
from shoal_worker.sandbox.validation import Ask

NONE_LABEL = "none of these"
EVIDENCE_MAX_CHARS = 160
_LABEL_LINE = re.compile(r"^- (.+)$", re.MULTILINE)
_NAME_WEIGHT, _DESCRIPTION_WEIGHT, _LEXICON_WEIGHT = 3.0, 1.0, 1.0
#: A second label counts when it scores at least this share of the best.
_ALSO_SHARE = 0.3

#: Words that speak for a label of common use without occurring in its name.
_LEXICON = {
    stem(name): terms(words)
    for name, words in {
        "account": "login password email profile username locked access register",
        "billing": "charged invoice refund payment paid card money price subscription fee receipt",
        "bug": "crash error broken failed freeze froze stopped wrong exception glitch",
        "cancel": "cancelled terminate unsubscribe stop close",
        "complaint": "terrible awful disappointed angry unacceptable rude worst bad slow poor",
        "delivery": "shipping package parcel arrived late courier tracking order",
        "feature": "wish add support option please suggestion idea missing",
        "negative": "terrible awful bad hate worst disappointed broken slow poor never angry wrong crash",
        "positive": "great love excellent wonderful amazing thanks happy good perfect best fast helpful",
        "praise": "great love excellent wonderful amazing thanks happy good perfect best helpful",
        "question": "wondering ask explain know possible",
        "shipping": "delivery package parcel arrived late courier tracking order",
        "spam": "winner click free offer prize lottery buy cheap",
        "sport": "match team goal league player coach season won cup",
        "technical": "crash error login install update bug server connect slow",
        "urgent": "immediately asap now emergency today critical down",
    }.items()
}


@dataclass(frozen=True, slots=True)
class _Label:
    name: str
    weights: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Scored:
    name: str
    score: float
    confidence: float


def classify_plan(schema: dict[str, Any]) -> Callable[[Ask], dict[str, Any]] | None:
    """How to answer this schema; None when it is not one of the two forms of classify."""
    properties = schema.get("properties", {})
    if set(properties) == {"evidence", "label", "confidence"}:
        offered, order = _names(properties["label"]), tuple(properties)
        return None if offered is None else lambda ask: _one_label(ask, offered, order)
    if set(properties) == {"evidence", "labels"}:
        listed = properties["labels"]
        names = _names(listed.get("items", {}).get("properties", {}).get("label", {}))
        return None if names is None else lambda ask: _many_labels(ask, names, listed.get("maxItems"))
    return None


def _names(label_schema: dict[str, Any]) -> tuple[str, ...] | None:
    """The choices; none when the list is too long for a schema and stands in the prompt only; None without labels."""
    if "enum" in label_schema:
        return tuple(name for name in label_schema["enum"] if isinstance(name, str)) or None
    return () if label_schema == {"type": "string"} else None


def _one_label(ask: Ask, names: tuple[str, ...], order: tuple[str, ...]) -> dict[str, Any]:
    text = only_text(ask.user)
    labels = _labels(ask.system, names)
    best = _scores(text, labels)[0]
    found = {"evidence": _evidence(text, labels, best), "label": best.name, "confidence": best.confidence}
    return {name: found[name] for name in order}


def _many_labels(ask: Ask, names: tuple[str, ...], most: int | None) -> dict[str, Any]:
    text = only_text(ask.user)
    labels = _labels(ask.system, names)
    scored = _scores(text, labels)
    chosen = [one for one in scored if one.score >= _ALSO_SHARE * scored[0].score > 0] or scored[:1]
    return {
        "evidence": _evidence(text, labels, scored[0]),
        "labels": [{"label": one.name, "confidence": one.confidence} for one in chosen[:most]],
    }


@lru_cache(maxsize=512)
def _labels(system: str, names: tuple[str, ...]) -> tuple[_Label, ...]:
    """What speaks for each label; a word that several labels share says less for each."""
    lines = _LABEL_LINE.findall(system.rpartition("Labels:")[2])
    names = names or tuple(dict.fromkeys(line.partition(": ")[0] for line in lines)) or (NONE_LABEL,)
    raw = [_raw_weights(name, lines) for name in names]
    spread = Counter(term for weights in raw for term in weights)
    return tuple(
        _Label(name, {term: weight * log(1 + len(names) / spread[term]) for term, weight in weights.items()})
        for name, weights in zip(names, raw, strict=True)
    )


def _raw_weights(name: str, lines: list[str]) -> dict[str, float]:
    if name == NONE_LABEL:
        return {}
    weights: dict[str, float] = {}
    for line in lines:
        if line.startswith(f"{name}: "):
            weights |= dict.fromkeys(terms(line[len(name) :]), _DESCRIPTION_WEIGHT)
    name_terms = terms(name.replace("_", " "))
    for term in name_terms:
        weights |= dict.fromkeys(_LEXICON.get(term, ()), _LEXICON_WEIGHT)
    return weights | dict.fromkeys(name_terms, _NAME_WEIGHT)


def _scores(text: str, labels: tuple[_Label, ...]) -> list[_Scored]:
    """Every label, best first. Without any shared word: the none-label, or else the first, at little confidence."""
    words = set(terms(text))
    scores = [sum(label.weights[word] for word in words & label.weights.keys()) for label in labels]
    total = sum(scores)
    if not total:
        names = [label.name for label in labels]
        fallback = NONE_LABEL if NONE_LABEL in names else names[0]
        return [_Scored(fallback, 0.0, 0.3)]
    scored = [
        _Scored(label.name, score, round(min(0.99, 0.4 + 0.59 * score / total), 2))
        for label, score in zip(labels, scores, strict=True)
    ]
    return sorted(scored, key=lambda one: -one.score)


def _evidence(text: str, labels: tuple[_Label, ...], best: _Scored) -> str:
    """The sentence that speaks most for the label, word for word."""
    if not best.score:
        return first_sentence(text)[:EVIDENCE_MAX_CHARS]
    weights = next(label.weights for label in labels if label.name == best.name)
    pieces = sentences(text)
    if len(pieces) == 1:
        return pieces[0][:EVIDENCE_MAX_CHARS]
    return max(pieces, key=lambda piece: sum(weights.get(word, 0.0) for word in set(terms(piece))))[:EVIDENCE_MAX_CHARS]
