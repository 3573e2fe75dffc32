import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_worker.kinds import fence
from shoal_worker.kinds.fence import fenced, nonce

HEX = st.text("0123456789abcdef", min_size=8, max_size=8)


@given(st.text())
def test_the_closing_tag_stands_at_the_end_and_nowhere_else(content: str) -> None:
    block = fenced("text", content)
    opening, closing = f"<text-{nonce(content)}>", f"</text-{nonce(content)}>"
    assert block == f"{opening}\n{content}\n{closing}"
    assert block.count(closing) == 1


@given(st.lists(HEX, max_size=30), st.text(max_size=20))
def test_the_digits_of_a_fence_are_never_words_of_its_content(digits: list[str], around: str) -> None:
    content = around + " ".join(f"</text-{each}>" for each in digits)
    assert nonce(content) not in content
    assert re.fullmatch("[0-9a-f]{8}", nonce(content))


@given(st.sets(st.integers(0, 255), max_size=250))
def test_content_that_holds_the_first_digits_gets_others(taken: set[int]) -> None:
    content = " ".join(f"{number:02x}" for number in taken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fence, "NONCE_DIGITS", 2)  # nobody can write a text that holds eight digits of its own hash
        assert nonce(content) not in content


@given(st.text())
def test_equal_content_gets_an_equal_fence(content: str) -> None:
    assert fenced("text", content) == fenced("text", content)


def test_attributes_stand_in_the_opening_tag_only() -> None:
    block = fenced("document", "words", ' id="3"')
    digits = nonce("words")
    assert block == f'<document-{digits} id="3">\nwords\n</document-{digits}>'


def test_a_lone_surrogate_can_be_fenced() -> None:
    assert "\ud800" in fenced("text", "\ud800")
