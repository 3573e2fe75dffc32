"""What a prompt is made of: fenced blocks, words and sentences. Every piece is cut out of the text unchanged."""

import re
from dataclasses import dataclass
from functools import lru_cache

_OPENING = re.compile(r'<(text|query|document)-([0-9a-f]{8})(?: id="(\d{1,9})")?>\n')
_WORD = re.compile(r"\w+")
_BREAK = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])|\s*\n\s*")
_SUFFIXES = ("ations", "ation", "ments", "ment", "ings", "ing", "ies", "ed", "es", "ly", "s", "e", "y")
_STEM_MIN = 3
_COMMON = (
    "a about after again all also am an and any are as at be because been before being but by can could did do does "
    "for from had has have he her here him his how i if in into is it its just me more most my no not of on one only "
    "or other our out over she should so some such than that the their them then there these they this those to too "
    "up us very was we were what when where which who why will with would you your"
)
STOPWORDS = frozenset(_COMMON.split())


@dataclass(frozen=True, slots=True)
class Fenced:
    """One fenced block; `number` is a document's id."""

    sort: str
    number: int | None
    text: str


def fenced_blocks(user: str) -> list[Fenced]:
    """The blocks of a user message, in their order."""
    blocks: list[Fenced] = []
    place = 0
    while (opening := _OPENING.search(user, place)) is not None:
        sort, nonce, number = opening.groups()
        end = user.find(f"\n</{sort}-{nonce}>", opening.end() - 1)
        if end < 0:
            place = opening.end()
            continue
        blocks.append(Fenced(sort, None if number is None else int(number), user[opening.end() : end]))
        place = end + 1
    return blocks


def only_text(user: str) -> str:
    """The fenced text of a user message, or all of it when nothing is fenced."""
    return next((block.text for block in fenced_blocks(user) if block.sort == "text"), user)


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """A lower-case word without its commonest English endings."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _STEM_MIN:
            return word.removesuffix(suffix)
    return word


def terms(text: str) -> list[str]:
    """The stems of the words that mean something."""
    return [stem(word) for word in _WORD.findall(text.lower()) if word not in STOPWORDS]


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, each as it stands there."""
    return [piece for part in _BREAK.split(text) if (piece := part.strip())]


def first_sentence(text: str) -> str:
    return next(iter(sentences(text)), "")


def cut(text: str, most_bytes: int) -> str:
    """The beginning of a text, as much as so many bytes of UTF-8 hold."""
    return text if len(text) * 4 <= most_bytes else text.encode()[:most_bytes].decode("utf-8", "ignore").rstrip()
