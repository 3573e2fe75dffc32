"""How much goes into one call, and how several calls of one job go out together."""

import asyncio
import math
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")

#: What one call is given to read, in tokens. Well under the default model's context, for the estimate is rough.
MAX_CALL_TOKENS = 100_000
#: Every prompt may be answered with this much; some providers refuse less than 16.
MIN_ANSWER_TOKENS = 64
#: Providers hold back the price of what an answer may cost at most, so the cap has a cap.
MAX_ANSWER_TOKENS = 16_000

#: Counted in bytes of UTF-8, so that scripts with a token or more for each character are not taken for short.
_BYTES_PER_TOKEN = 3.5


def estimated_tokens(text: str) -> int:
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / _BYTES_PER_TOKEN)


def answer_cap(tokens: int) -> int:
    """`max_completion_tokens` for an answer that should need this many."""
    return min(max(tokens, MIN_ANSWER_TOKENS), MAX_ANSWER_TOKENS)


async def all_answers(asked: Iterable[Awaitable[T]]) -> list[T]:
    """The answers in the order of the questions.

    When one fails, the others are waited for before its error is raised: a call that is given up is billed all the
    same, and its cost would go uncounted.
    """
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]
