import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_worker.kinds.sentences import MAX_SENTENCE_CHARS, sentences

#: Dense in everything that the rules look at.
TRICKY = st.lists(st.sampled_from([*"aBé漢 \n\t.!?…。！？।\"'”)»1\u2028\u00a0", "\r\n", "Dr.", "U.S.", " . "])).map(
    "".join
)


def quotes(text: str) -> list[str]:
    return [span.quote for span in sentences(text)]


@given(st.text() | TRICKY)
def test_sentences_cover_all_that_is_visible_in_order_without_overlap(text: str) -> None:
    end = 0
    for span in sentences(text):
        assert span.start >= end
        assert not text[end : span.start].strip()
        assert text[span.start : span.end] == span.quote == span.quote.strip() != ""
        end = span.end
    assert not text[end:].strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ("Dr. Smith met Mrs. Jones. They left.", ["Dr. Smith met Mrs. Jones.", "They left."]),
        ("J. R. Tolkien wrote. The U.S. Army read.", ["J. R. Tolkien wrote.", "The U.S. Army read."]),
        ("It costs 3.14 or so. Next.", ["It costs 3.14 or so.", "Next."]),
        ("See e.g. this one. Done.", ["See e.g. this one.", "Done."]),
        ("vitamin 5. Next", ["vitamin 5.", "Next"]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        ("Visit example.com/a?b=c now. Thanks.", ["Visit example.com/a?b=c now.", "Thanks."]),
        ("今日は晴れ。明日は雨！「はい。」と言った", ["今日は晴れ。", "明日は雨！", "「はい。」", "と言った"]),
        ("यह पहला है। यह दूसरा है।", ["यह पहला है।", "यह दूसरा है।"]),
        ("هل هذا نص؟ نعم.", ["هل هذا نص؟", "نعم."]),
        ("Title\n\nbody text", ["Title", "body text"]),
        ("- milk\n- eggs\r\n- bread", ["- milk", "- eggs", "- bread"]),
        ("a line that is\nwrapped. Next", ["a line that is\nwrapped.", "Next"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_a_text_falls_into_the_sentences_that_a_reader_sees(text: str, expected: list[str]) -> None:
    assert quotes(text) == expected


def test_an_endless_sentence_is_cut_between_words() -> None:
    text = "word " * 1_000
    assert len(quotes(text)) > 1
    assert all(len(quote) <= MAX_SENTENCE_CHARS for quote in quotes(text))
    assert {word for quote in quotes(text) for word in quote.split()} == {"word"}


def test_an_endless_word_is_cut_anyway() -> None:
    assert quotes("x" * (2 * MAX_SENTENCE_CHARS + 1)) == ["x" * MAX_SENTENCE_CHARS, "x" * MAX_SENTENCE_CHARS, "x"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", [".", "a", "…", "\n", ".'", " .", "'", "a\n "], ids=repr)
def test_a_hostile_megabyte_does_not_cost_its_square(piece: str) -> None:
    text = "a." + piece * (300_000 // len(piece)) + "b"
    assert sentences(text)[-1].end == len(text)
