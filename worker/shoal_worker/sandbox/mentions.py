"""What a text mentions: dates, addresses, amounts, numbers, names. Each with the words that say so, unchanged."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from shoal_worker.sandbox.prompt_parts import STOPWORDS, cut, sentences

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_DATE = re.compile(
    rf"\b(?:(\d{{4}})-(\d\d)-(\d\d)|(\d{{1,2}})(?:st|nd|rd|th|\.)? ({_MONTH}),? (\d{{4}})"
    rf"|({_MONTH}) (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})|(\d{{1,2}})([./])(\d{{1,2}})[./](\d{{4}}))\b"
)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(r"https?://[^\s<>\"')\]]*[^\s<>\"')\].,;:!?]")
_PHONE = re.compile(r"\+?\d[\d ()/-]{6,}\d")
_NUMERAL = r"\d{1,3}(?:,\d{3}){1,5}(?:\.\d{1,9})?(?!\d)|\d{1,15}(?:\.\d{1,9})?(?!\d)"
_NUMBER = re.compile(rf"(?<![\w.,-])-?(?:{_NUMERAL})(?![\w]|[.,-]\d)")
_MONEY = re.compile(
    rf"([$€£¥]|\b(?:USD|EUR|GBP|JPY|CHF)) ?({_NUMERAL})"
    rf"|(?<![\w.,])({_NUMERAL}) ?([$€£¥]|(?:USD|EUR|GBP|JPY|CHF|dollars?|euros?|pounds?)\b)"
)
_CURRENCIES = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "dollar": "USD", "euro": "EUR", "pound": "GBP"}
_NAME = re.compile(r"\b[A-Z][\w'’-]+(?: (?:of |de |van |von |la )?[A-Z][\w'’&.-]*\w){0,4}")
_OPENING_WORDS = re.compile(
    r"^(?:(?:The|A|An|Dear|Hello|Hi|Hey|From|In|On|At|My|Our|Your|But|And|When|If|Mr|Mrs|Ms|Dr) ?)+\b"
)
_SENTENCE_ENDS = frozenset(".!?\n:")
_YEAR = re.compile(r"(?<![\w.,-])(?:19|20)\d\d(?!\w)")
_CODE = re.compile(r"(?<![\w-])#?(?=[\w-]*\d)[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*(?![\w-])")
_WORD = re.compile(r"[^\W\d_]{4,}")
_NEGATION = re.compile(r"\b(?:not|no|never|without|cannot|isn't|wasn't|don't|didn't|won't|can't)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    value: Any
    quote: str
    place: int


#: Those who ask leave room for short quotes only.
_QUOTE_BYTES = 72

Finder = Callable[[str], list[Mention]]


def _verbatim(pattern: re.Pattern[str]) -> Finder:
    return lambda text: [Mention(match[0], match[0], match.start()) for match in pattern.finditer(text)]


emails, urls, phones, codes, date_words = map(_verbatim, (_EMAIL, _URL, _PHONE, _CODE, _DATE))


def names(text: str) -> list[Mention]:
    """Runs of capitalised words, several words before one. A lone word that opens a sentence is no name."""
    runs: list[Mention] = []
    for match in _NAME.finditer(text):
        name = _OPENING_WORDS.sub("", match[0])
        place = match.end() - len(name)
        opens = place == 0 or text[:place].rstrip(" ")[-1:] in _SENTENCE_ENDS
        if name and name.lower() not in STOPWORDS and (" " in name or not opens):
            runs.append(Mention(name, name, place))
    return sorted(runs, key=lambda one: " " not in one.value)


def years(text: str) -> list[Mention]:
    return [Mention(int(match[0]), match[0], match.start()) for match in _YEAR.finditer(text)]


def iso_dates(text: str) -> list[Mention]:
    return [Mention(day.isoformat(), words, place) for day, words, place in _days(text)]


def iso_moments(text: str) -> list[Mention]:
    return [Mention(f"{day.isoformat()}T00:00:00Z", words, place) for day, words, place in _days(text)]


def _days(text: str) -> Iterator[tuple[date, str, int]]:
    for match in _DATE.finditer(text):
        try:
            yield _day(match), match[0], match.start()
        except ValueError:
            continue


def _day(match: re.Match[str]) -> date:
    if match[1]:
        return date(int(match[1]), int(match[2]), int(match[3]))
    if match[5]:
        return date(int(match[6]), _month(match[5]), int(match[4]))
    if match[7]:
        return date(int(match[9]), _month(match[7]), int(match[8]))
    first, second = int(match[10]), int(match[12])
    day_first = match[11] == "." or first > len(_MONTHS)
    return date(int(match[13]), second if day_first else first, first if day_first else second)


def _month(name: str) -> int:
    return _MONTHS.index(name[:3].lower()) + 1


def numbers(text: str) -> list[Mention]:
    """Numbers that are no part of a date or of an address."""
    taken = [match.span() for pattern in (_DATE, _EMAIL, _URL) for match in pattern.finditer(text)]
    return [
        Mention(_number(match[0]), match[0], match.start())
        for match in _NUMBER.finditer(text)
        if not any(start <= match.start() < end for start, end in taken)
    ]


def integers(text: str) -> list[Mention]:
    return [one for one in numbers(text) if isinstance(one.value, int)]


def amounts(text: str) -> list[Mention]:
    """Sums of money as numbers; plain numbers where no currency is named."""
    found = [Mention(_number(match[2] or match[3]), match[0], match.start()) for match in _MONEY.finditer(text)]
    return found or numbers(text)


def sums(text: str) -> list[Mention]:
    """Sums of money as they are written."""
    return _verbatim(_MONEY)(text)


def currencies(text: str) -> list[Mention]:
    return [
        Mention(_CURRENCIES.get(sign.lower().rstrip("s"), sign), match[0], match.start())
        for match in _MONEY.finditer(text)
        if (sign := match[1] or match[4])
    ]


def _number(numeral: str) -> int | float:
    plain = numeral.replace(",", "")
    return float(plain) if "." in plain else int(plain)


def _short(words: str) -> str:
    return cut(words, _QUOTE_BYTES)


def topics(text: str) -> list[Mention]:
    """The words that come most often, the longest of equals first, as they are first written."""
    found = [match for match in _WORD.finditer(text) if match[0].lower() not in STOPWORDS]
    counts = Counter(match[0].lower() for match in found)
    first = {match[0].lower(): match for match in reversed(found)}
    order = sorted(counts, key=lambda word: (-counts[word], -len(word), first[word].start()))
    return [Mention(first[word][0], first[word][0], first[word].start()) for word in order]


def statements(text: str) -> list[Mention]:
    return [Mention(_short(sentence), _short(sentence), text.find(sentence)) for sentence in sentences(text)]


def one_of(options: tuple[Any, ...]) -> Finder:
    """Those of the given values that the text names."""
    patterns = [
        (option, re.compile(rf"(?<!\w){re.escape(str(option).replace('_', ' '))}(?!\w)", re.IGNORECASE))
        for option in options
        if option not in (None, "")
    ]

    def find(text: str) -> list[Mention]:
        found = [
            Mention(option, match[0], match.start()) for option, pattern in patterns for match in pattern.finditer(text)
        ]
        return sorted(found, key=lambda one: one.place)

    return find


def whether(words: tuple[str, ...]) -> Finder:
    """True or false for each sentence that speaks of the words; a negation in it makes it false."""
    telling = [word for word in words if word not in STOPWORDS] or list(words)
    pattern = re.compile("|".join(re.escape(word[:6]) for word in telling), re.IGNORECASE)

    def find(text: str) -> list[Mention]:
        return [
            Mention(_NEGATION.search(sentence) is None, _short(sentence), text.find(sentence))
            for sentence in sentences(text)
            if pattern.search(sentence)
        ]

    return find


def labelled(words: tuple[str, ...]) -> Finder:
    """What follows the words and a colon, an equals sign or "is": `Order number: A-113` for order_number."""
    pattern = re.compile(
        rf"(?<!\w){r'[ _-]'.join(map(re.escape, words))}\s*(?::|=|\bis\b)\s*([^\s,;][^\n,;]*)", re.IGNORECASE
    )

    def find(text: str) -> list[Mention]:
        found = []
        for match in pattern.finditer(text):
            words_said = re.split(r"(?<=\w)[.!?](?:\s|$)", match[1], maxsplit=1)[0]
            words_said = _short(words_said.strip())
            found += [Mention(words_said, words_said, match.start(1))] if words_said else []
        return found

    return find
