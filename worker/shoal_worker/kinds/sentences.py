"""A text's sentences, as stretches of code points. Rules of thumb, linear time, the same answer every time.

A sentence ends at a full stop with white space behind it (but not after "Dr." or "J.", nor before a small letter), at
a full stop of a script that puts no space behind it, at an empty line, and at a line's end unless the next line goes
on in small letters. What is longer than `MAX_SENTENCE_CHARS` is cut, between words where there are any.
"""

import re
from collections.abc import Iterator

from shoal.jobs import Span

MAX_SENTENCE_CHARS = 1_000

_LINE_END = r"\r\n|[\n\r\u0085\u2028\u2029]"
# A run of stops is looked at from its beginning only: from each of its stops, long runs would cost their square.
_END = re.compile(
    r"(?<![.!?…])(?P<spaceless>[.!?…]*[。！？｡．][。！？｡．.!?…]*[\"'”’»)\]』」）]*)"
    r"|(?<![.!?…।॥؟۔։])(?P<stop>[.!?…।॥؟۔։]+[\"'”’»)\]]*)(?=\s)"
    rf"|(?P<line>(?:{_LINE_END})\s*)"
)
_VISIBLE = re.compile(r"\S")
_ONE_LINE_END = re.compile(_LINE_END)
_WORD_BEFORE = re.compile(r"[\w.]+$")
_LETTERS_WITH_DOTS = re.compile(r"\w(\.\w)*")
#: Words that are followed by a full stop and then, more often than not, by a capital or a figure.
_ABBREVIATIONS = frozenset(
    (
        "mr mrs ms mx dr prof st mt sr jr gen gov sen rep rev hon capt col sgt lt vs cf ca approx no nos "
        "nr vol pp fig figs eq sec art ch ed eds al jan feb mar apr jun jul aug sep sept oct nov dec inc "
        "ltd corp bzw vgl hr fr abs mme mlle sra "
    ).split()
)


def sentences(text: str) -> list[Span]:
    """In the text's order, without overlap, nothing but white space between them."""
    found, start = [], 0
    for end in _ends(text):
        found += [Span(start=a, end=b, quote=text[a:b]) for a, b in _cut(text, start, end)]
        start = end
    return found


def _ends(text: str) -> Iterator[int]:
    for end in _END.finditer(text):
        if _ends_sentence(text, end):
            yield end.end()
    yield len(text)


def _ends_sentence(text: str, end: re.Match[str]) -> bool:
    match end.lastgroup:
        case "spaceless":
            return True
        case "line":
            lines = len(_ONE_LINE_END.findall(end.group()))
            return lines > 1 or not text[end.end() : end.end() + 1].islower()
        case _:
            return not (_is_abbreviation(text, end) or _next_is_small(text, end.end()))


def _is_abbreviation(text: str, end: re.Match[str]) -> bool:
    if end.group() != ".":
        return False
    before = _WORD_BEFORE.search(text[max(end.start() - 20, 0) : end.start()])
    if before is None:
        return False
    word = before.group()
    # "J. Smith" and "U.S. Army", but "vitamin 5. Next" ends.
    is_initials = _LETTERS_WITH_DOTS.fullmatch(word) is not None and not word.isdigit()
    return is_initials or word.casefold() in _ABBREVIATIONS


def _next_is_small(text: str, place: int) -> bool:
    return text[place : place + 10].lstrip()[:1].islower()


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Without the white space around it, in pieces that are not too long."""
    while visible := _VISIBLE.search(text, start, end):
        start = visible.start()
        stop = end if end - start <= MAX_SENTENCE_CHARS else _break(text, start)
        yield start, start + len(text[start:stop].rstrip())
        start = stop


def _break(text: str, start: int) -> int:
    window = text[start : start + MAX_SENTENCE_CHARS]
    space = max(window.rfind(mark) for mark in " \n\t")
    return start + (space if space > 0 else MAX_SENTENCE_CHARS)
