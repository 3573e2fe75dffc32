"""Where a model's quote stands in the text that was sent. Offsets are ours, never the model's.

First the quote is looked for as it is, then in a folded form of the text: compatibility decomposition, no case, one
kind of quotation mark, of hyphen and of space, no invisible characters. Every folded character knows the original
that it came from, so what is handed back is always words of the original: `text[start:end] == quote`.
"""

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import compress

from shoal.jobs import Grounding, Span

QUOTATION_MARKS = "'\"`´‘’‚‛“”„‟‹›«»′″＂＇「」『』"
HYPHENS = "-‐‑‒–—―−﹘﹣－"
#: Places tried for one that cuts no word (or no character) in two. It keeps hostile texts linear.
MAX_TRIES = 100

#: Spaces that say nothing: all but the first of a run, and those beside scripts that write without them.
_UNSPACED = r"[\u3001-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_IDLE_SPACES = re.compile(rf"(?<= ) +|(?<={_UNSPACED}) +| +(?={_UNSPACED})")


@dataclass(frozen=True, slots=True)
class Match:
    span: Span
    grounding: Grounding


class _FoldedCharacters(dict[str, str]):
    """What a character is folded to, worked out once for each."""

    def __missing__(self, character: str) -> str:
        folded = self[character] = _folded_character(character)
        return folded


def _folded_character(character: str) -> str:
    if character in QUOTATION_MARKS:
        return "'"
    if character in HYPHENS:
        return "-"
    if character.isspace():
        return " "
    if unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    # Decomposed accents that stand alone come with a space that nobody typed.
    return plain.replace(" ", "")


_FOLDED = _FoldedCharacters()


@dataclass(frozen=True, slots=True)
class Folded:
    """A text in folded form; `origins[i]` is the place in the original of the folded character `i`."""

    text: str
    origins: "array[int]"

    @classmethod
    def of(cls, original: str) -> "Folded":
        pieces = [_FOLDED[character] for character in original]
        text = "".join(pieces)
        kept = bytearray(b"\1") * len(text)
        for idle in _IDLE_SPACES.finditer(text):
            kept[idle.start() : idle.end()] = bytes(idle.end() - idle.start())
        origins = (place for place, piece in enumerate(pieces) for _ in piece)
        return cls("".join(compress(text, kept)), array("I", compress(origins, kept)))

    def original(self, start: int, end: int) -> tuple[int, int] | None:
        """The original stretch of a folded one; None where that would begin or end inside a character."""
        origins = self.origins
        if start > 0 and origins[start - 1] == origins[start]:
            return None
        if end < len(origins) and origins[end - 1] == origins[end]:
            return None
        return origins[start], origins[end - 1] + 1


class Aligner:
    """Finds quotes in one text. The folded form is made when a quote first asks for it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def locate(self, quote: str, after: int = 0) -> Match | None:
        """The first place at or after `after`, one that cuts no word in two if there is one."""
        if not quote.strip():
            return None
        stretch = self._best(self._exact(quote, after))
        if stretch is not None:
            return Match(self._span(*stretch), Grounding.EXACT)
        needle = Folded.of(quote).text.strip()
        for wanted in dict.fromkeys((needle, needle.strip("' "))):
            stretch = self._best(self._folded_places(wanted, after)) if wanted else None
            if stretch is not None:
                return Match(self._span(*stretch), Grounding.NORMALISED)
        return None

    @cached_property
    def _folded(self) -> Folded:
        return Folded.of(self.text)

    def _exact(self, quote: str, after: int) -> Iterator[tuple[int, int]]:
        for place in _places(self.text.find, quote, after):
            yield place, place + len(quote)

    def _folded_places(self, wanted: str, after: int) -> Iterator[tuple[int, int]]:
        folded = self._folded
        first = bisect_left(folded.origins, after)
        for place in _places(folded.text.find, wanted, first):
            stretch = folded.original(place, place + len(wanted))
            if stretch is not None:
                yield stretch

    def _best(self, stretches: Iterator[tuple[int, int]]) -> tuple[int, int] | None:
        first = None
        for stretch in stretches:
            if not (self._inside_word(stretch[0]) or self._inside_word(stretch[1])):
                return stretch
            first = first or stretch
        return first

    def _inside_word(self, place: int) -> bool:
        if not 0 < place < len(self.text):
            return False
        return self.text[place - 1 : place + 1].isalnum() or unicodedata.combining(self.text[place]) > 0

    def _span(self, start: int, end: int) -> Span:
        return Span(start=start, end=end, quote=self.text[start:end])


def _places(find: Callable[[str, int], int], wanted: str, start: int) -> Iterator[int]:
    place = start - 1
    for _ in range(MAX_TRIES):
        place = find(wanted, place + 1)
        if place < 0:
            return
        yield place
