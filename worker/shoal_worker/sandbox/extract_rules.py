"""Extraction by regular expressions: which one a field gets, its name and its type decide.

A field is `{"value": …, "quote": …}`. The quote is cut from the text; a value that does not fit the caller's own
schema for it is not used, and null, which always fits, is said instead.
"""

import re
from collections.abc import Callable
from typing import Any

from jsonschema import Draft202012Validator

from shoal_worker.sandbox import mentions
from shoal_worker.sandbox.mentions import Finder, Mention
from shoal_worker.sandbox.prompt_parts import first_sentence, only_text, sentences
from shoal_worker.sandbox.schema_filler import filled, resolved
from shoal_worker.sandbox.validation import Ask

LIST_MAX = 10
_DEPTH_MAX = 10
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
#: Keywords that a finder obeys by itself; any other makes every value pass through the validator.
_OBEYED = frozenset({"type", "enum", "description", "title"})

_BY_FORMAT: dict[str, Finder] = {
    "date": mentions.iso_dates,
    "date-time": mentions.iso_moments,
    "email": mentions.emails,
    "uri": mentions.urls,
}
#: The first row that shares a word with the field's name says how a string field is found.
_BY_NAME: tuple[tuple[frozenset[str], Finder], ...] = tuple(
    (frozenset(words.split()), finder)
    for words, finder in (
        ("email emails mail", mentions.emails),
        ("url urls link links website homepage", mentions.urls),
        ("phone phones telephone tel mobile fax", mentions.phones),
        ("currency currencies", mentions.currencies),
        ("date dates day deadline due born birthday when since until", mentions.date_words),
        ("amount amounts money price prices total cost costs fee sum salary", mentions.sums),
        ("id ids number no code codes reference ref sku serial invoice order ticket version", mentions.codes),
        ("topic topics keyword keywords subject tag tags category theme", mentions.topics),
        ("summary description reason issue problem comment note text sentence title", mentions.statements),
        (
            (
                "name names person people customer author sender recipient signer client contact speaker company "
                "organization organisation employer vendor city country place location product brand party"
            ),
            mentions.names,
        ),
    )
)
_MONEY_WORDS = next(words for words, finder in _BY_NAME if finder is mentions.sums)
_CURRENCY_WORDS = next(words for words, finder in _BY_NAME if finder is mentions.currencies)

#: Makes the value of one part of the schema from a text.
Part = Callable[[str], Any]


def extract_plan(schema: dict[str, Any]) -> Callable[[Ask], Any] | None:
    """How to answer this schema."""
    part = _part(schema, schema, "", 0)
    return lambda ask: part(only_text(ask.user))


def _part(schema: dict[str, Any], root: dict[str, Any], name: str, depth: int) -> Part:
    schema = resolved(schema, root)
    properties = schema.get("properties")
    if depth <= _DEPTH_MAX and _is_field(schema):
        return _field(_field_finder(schema, root, name))
    if depth <= _DEPTH_MAX and isinstance(properties, dict):
        parts = {key: _part(inside, root, key, depth + 1) for key, inside in properties.items()}
        return lambda text: {key: part(text) for key, part in parts.items()}
    if depth <= _DEPTH_MAX and isinstance(schema.get("items"), dict):
        return _list(schema, root, name, depth)
    return lambda text: filled(schema, root, first_sentence(text), depth)


def _is_field(schema: dict[str, Any]) -> bool:
    properties = schema.get("properties")
    return (
        isinstance(properties, dict)
        and set(properties) == {"value", "quote"}
        and isinstance(properties["value"].get("anyOf"), list)
        and {"type": "null"} in properties["value"]["anyOf"]
    )


def _field(finder: Finder) -> Part:
    def find(text: str) -> dict[str, Any]:
        return _told(next(iter(finder(text)), None))

    return find


def _told(mention: Mention | None) -> dict[str, Any]:
    if mention is None:
        return {"value": None, "quote": None}
    return {"value": mention.value, "quote": mention.quote}


def _list(schema: dict[str, Any], root: dict[str, Any], name: str, depth: int) -> Part:
    """Fields: every mention once. Objects: one for each sentence that says something of it."""
    items = resolved(schema["items"], root)
    least, most = schema.get("minItems", 0), min(schema.get("maxItems", LIST_MAX), LIST_MAX)
    part = _part(items, root, name, depth + 1)
    if _is_field(items):
        finder = _field_finder(items, root, name)

        def find(text: str) -> list[Any]:
            once = {str(mention.value): mention for mention in reversed(finder(text))}
            return [_told(one) for one in reversed(once.values())]
    else:

        def find(text: str) -> list[Any]:
            return [made for sentence in sentences(text) if _says_something(made := part(sentence))]

    def listed(text: str) -> list[Any]:
        found = find(text)[: max(most, least)]
        return found + [part("") for _ in range(least - len(found))]

    return listed


def _says_something(made: Any) -> bool:
    if isinstance(made, dict):
        if made.keys() == {"value", "quote"}:
            return made["value"] is not None
        return any(map(_says_something, made.values()))
    return isinstance(made, list) and any(map(_says_something, made))


def _field_finder(schema: dict[str, Any], root: dict[str, Any], name: str) -> Finder:
    """Finds the mentions whose value fits the caller's schema of the field."""
    options = schema["properties"]["value"]["anyOf"]
    leaf = resolved(next((one for one in options if one != {"type": "null"}), {}), root)
    finder = _leaf_finder(leaf, tuple(part.lower() for part in _NAME_PART.findall(name)))
    if leaf.keys() <= _OBEYED:
        return finder
    definitions: dict[str, Any] = {key: root[key] for key in ("$defs", "definitions") if key in root}
    validator = Draft202012Validator(definitions | leaf)
    return lambda text: [one for one in finder(text) if validator.is_valid(one.value)]


def _leaf_finder(leaf: dict[str, Any], words: tuple[str, ...]) -> Finder:
    named = leaf.get("type")
    sorts = {named} if isinstance(named, str) else set(named or ())
    if "enum" in leaf and _CURRENCY_WORDS & set(words):
        return lambda text: [one for one in mentions.currencies(text) if one.value in leaf["enum"]]
    if "enum" in leaf or "const" in leaf:
        return mentions.one_of(tuple(leaf.get("enum", ())) or (leaf.get("const"),))
    if "string" in sorts:
        return _string_finder(leaf, words)
    if "number" in sorts:
        return _nearest(mentions.amounts if _MONEY_WORDS & set(words) else mentions.numbers, words)
    if "integer" in sorts:
        return _nearest(mentions.years if "year" in words else mentions.integers, words)
    return mentions.whether(words) if "boolean" in sorts and words else lambda _text: []


def _string_finder(leaf: dict[str, Any], words: tuple[str, ...]) -> Finder:
    if leaf.get("format") in _BY_FORMAT:
        return _nearest(_BY_FORMAT[leaf["format"]], words)
    known = next((finder for row, finder in _BY_NAME if row & set(words)), None)
    if not words:
        return mentions.statements
    after_label = mentions.labelled(words)
    if known is None:
        return after_label
    if known in {mentions.names, mentions.codes, mentions.statements}:
        return lambda text: after_label(text) or known(text)
    return _nearest(known, words) if known is not mentions.topics else known


def _nearest(finder: Finder, words: tuple[str, ...]) -> Finder:
    """The mentions in order of their distance to the field's name, when the text has one of its words."""
    telling = re.compile("|".join(rf"\b{re.escape(word)}" for word in words if len(word) > 2) or r"(?!)", re.IGNORECASE)

    def find(text: str) -> list[Mention]:
        found = finder(text)
        spoken = [match.start() for match in telling.finditer(text)]
        if not spoken or len(found) < 2:
            return found
        return sorted(found, key=lambda one: min(abs(one.place - place) for place in spoken))

    return find
