import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shoal.jobs import Grounding
from shoal_worker.kinds.grounding import Aligner, Folded

#: No half surrogate pairs: no text that was sent holds one.
CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    [
        *"aAzZ  \n\t-–'’“”«»éÉßﬁﬃİıſςΣ漢字かが한국שלום،ـ",
        "\u0301",
        "\u00ad",
        "\u200b",
        "\u200d",
        "\ufe0f",
        "👩‍🚀",
        "🇩🇪",
        "¨",
        "½",
    ]
)
TEXTS = st.lists(CHARACTERS, min_size=1, max_size=60).map("".join)
WORDS = st.lists(
    st.sampled_from(["Ann", "isn’t", "“fine”", "well–known", "Café", "Straße", "42", "naïve", "Да"]), min_size=1
)


def stretch(data: st.DataObject, text: str) -> tuple[int, int]:
    start = data.draw(st.integers(0, len(text) - 1))
    return start, data.draw(st.integers(start + 1, len(text)))


@given(TEXTS, st.data())
def test_every_stretch_of_a_text_is_found_word_for_word(text: str, data: st.DataObject) -> None:
    start, end = stretch(data, text)
    quote = text[start:end]
    assume(quote.strip())
    match = Aligner(text).locate(quote)
    assert match is not None
    assert match.grounding is Grounding.EXACT
    assert text[match.span.start : match.span.end] == match.span.quote == quote


@given(TEXTS, TEXTS, st.integers(0, 70))
def test_whatever_is_found_are_words_of_the_original(text: str, quote: str, after: int) -> None:
    match = Aligner(text).locate(quote, after)
    if match is not None:
        assert after <= match.span.start < match.span.end <= len(text)
        assert text[match.span.start : match.span.end] == match.span.quote
        assert Folded.of(match.span.quote).text.strip("' ") == Folded.of(quote).text.strip("' ")


MANGLED: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "small letters": str.lower,
    "line breaks": lambda quote: quote.replace(" ", " \n\t "),
    "no-break spaces": lambda quote: quote.replace(" ", "\u00a0"),
    "straight quotation marks": lambda quote: quote.translate(dict.fromkeys(map(ord, "’“”"), "'")),
    "other quotation marks": lambda quote: quote.translate({ord("’"): "'", ord("“"): "«", ord("”"): "»"}),
    "plain hyphens": lambda quote: quote.replace("–", "-"),
    "soft hyphens": "\u00ad".join,
    "zero-width spaces": "\u200b".join,
    "decomposed letters": lambda quote: unicodedata.normalize("NFD", quote),
    "full-width letters": lambda quote: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in quote),
    "added quotation marks": lambda quote: f'"{quote}"',
}


@pytest.mark.parametrize("mangle", MANGLED.values(), ids=MANGLED)
@given(before=WORDS, quote=WORDS, after=WORDS)
def test_a_mangled_quote_is_found_in_the_original_and_the_other_way_round(
    mangle: Callable[[str], str], before: list[str], quote: list[str], after: list[str]
) -> None:
    said, around = " ".join(quote), (" ".join(before), " ".join(after))
    for text, asked in ((said, mangle(said)), (mangle(said), said)):
        whole = f"{around[0]} ~ {text} ~ {around[1]}"
        match = Aligner(whole).locate(asked)
        assert match is not None
        assert whole[match.span.start : match.span.end] == match.span.quote
        assert Folded.of(match.span.quote).text.strip("' ") == Folded.of(asked).text.strip("' ")


@pytest.mark.parametrize(
    ("text", "quote", "found"),
    [
        ("He is an artist; art is long.", "art", (17, 20)),  # not the beginning of "artist"
        ("In 2012 he bought 12.", "12", (18, 20)),
        ("artful only", "art", (0, 3)),  # better a part of a word than nothing
        ("a cafe\u0301, a cafe", "cafe", (11, 15)),  # not a letter without its accent
        ("これは\n長い文です。", "これは長い文", (0, 7)),  # a line break between characters says nothing
        ("(¨y", "¨Y", (1, 3)),
        ("the oﬃce", "OFFICE", (4, 8)),
        ("Größe: GROSS", "größe", (0, 5)),
        ("weiß", "WEISS", (0, 4)),
        ("👩‍🚀 Ann 🇩🇪 PAID", "ann 🇩🇪 paid", (4, 15)),
        ("שלום עולם", "שלום  עולם", (0, 9)),
        ("ex\u00adam\u00adple", "example", (0, 9)),
    ],
)
def test_a_quote_is_found_where_a_reader_would_find_it(text: str, quote: str, found: tuple[int, int]) -> None:
    match = Aligner(text).locate(quote)
    assert match is not None
    assert (match.span.start, match.span.end) == found


@pytest.mark.parametrize("quote", ["", "  ", "\u00ad\u200b", "'", "Bob", "of fice", "1 2"])
def test_what_the_text_does_not_say_is_not_found(quote: str) -> None:
    assert Aligner("Ann, of the ofﬁce, has 12.").locate(quote) is None


def test_half_of_a_character_is_no_match() -> None:
    assert Aligner("ﬁ").locate("F") is None
    assert Aligner("ﬁ").locate("I") is None


def test_a_search_can_begin_behind_an_earlier_match() -> None:
    aligner = Aligner("Ann. ANN. Ann.")
    assert [aligner.locate("Ann", after).span.start for after in (0, 3, 8)] == [0, 10, 10]  # type: ignore[union-attr] # all are found
    assert aligner.locate("Ann", 12) is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("piece", "quote"),
    [("a", "A" * 5_000 + "b"), ("ﬀ", "F" * 50_001), (" ", "x  y"), ("aaaaaaab", "B" + "a" * 4_000), ("漢 ", "字" * 99)],
    ids=["one letter", "ligatures", "spaces", "nearly periodic", "idle spaces"],
)
def test_a_hostile_megabyte_does_not_cost_its_square(piece: str, quote: str) -> None:
    assert Aligner(piece * (1_000_000 // len(piece))).locate(quote) is None
