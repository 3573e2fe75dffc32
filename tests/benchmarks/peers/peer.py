"""What each peer's module offers as a program, so that each can live in an environment of its own.

PEER enqueue FIRST COUNT   queue COUNT questions; prints the seconds it took
PEER answers COUNT         wait until COUNT answers are stored, read them all; prints how many are right
PEER alone TIMES           one question at a time to an idle worker; prints each one's seconds
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from random import Random
from typing import Any

import redis

from question import REDIS_URL, is_right, text_of

PATIENCE_SECONDS = 30.0
WARM = 10
Said = dict[str, Any]


def main(
    enqueue: Callable[[list[str]], None],
    answers: Callable[[int], Iterable[Said]],
    alone: Callable[[Callable[[Callable[[str], Awaitable[Said]]], Awaitable[None]]], None] | None = None,
) -> None:
    """`alone` opens the producer and hands a coroutine that asks one question and waits for its answer."""
    verb, *numbers = sys.argv[1:]
    given = [int(number) for number in numbers]
    if verb == "enqueue":
        first, count = given
        texts = [text_of(number) for number in range(first, first + count)]
        began_at = time.perf_counter()
        enqueue(texts)
        tell({"seconds": time.perf_counter() - began_at})
    elif verb == "answers":
        tell(checked(answers(given[0])))
    elif verb == "alone":
        assert alone is not None
        alone(lambda ask: one_by_one(ask, given[0]))
    else:
        raise SystemExit(f"no such verb: {verb}")


def tell(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


def checked(answers: Iterable[Said]) -> dict[str, Any]:
    """How many answers there are, how many carry the right label, and how many different questions they answer."""
    count = right = 0
    cases = set()
    for said in answers:
        count += 1
        right += is_right(said)
        cases.add(said["evidence"])
    return {"stored": count, "right": right, "distinct": len(cases)}


def in_redis(pattern: str, read: Callable[[bytes], Said], kind: str = "string") -> Callable[[int], Iterator[Said]]:
    """Answers under keys of a pattern, read without the peer's own code where that is possible."""

    def answers(count: int) -> Iterator[Said]:
        with redis.Redis.from_url(REDIS_URL) as client:
            ends_at = time.monotonic() + PATIENCE_SECONDS
            while len(keys := list(client.scan_iter(pattern, count=10_000))) < count and time.monotonic() < ends_at:
                time.sleep(0.1)
            for start in range(0, len(keys), 1_000):
                part = keys[start : start + 1_000]
                if kind == "list":
                    with client.pipeline() as pipe:
                        for key in part:
                            pipe.lindex(key, 0)
                        values: Any = pipe.execute()
                else:
                    values = client.mget(part)
                yield from map(read, values)

    return answers


async def one_by_one(ask: Callable[[str], Awaitable[Said]], times: int) -> None:
    """Uneven pauses, so that no poll of anybody's falls into step with the questions."""
    chance, took = Random(1), []
    for number in range(WARM + times):
        await asyncio.sleep(chance.uniform(0.005, 0.04))
        began_at = time.perf_counter()
        said = await ask(text_of(number))
        took.append(time.perf_counter() - began_at)
        assert is_right(said), said
    tell({"seconds": took[WARM:]})


async def gathered(verb: Callable[[str], Awaitable[Any]], texts: list[str], at_once: int = 100) -> None:
    """Call for each text, so many at once."""
    for start in range(0, len(texts), at_once):
        await asyncio.gather(*map(verb, texts[start : start + at_once]))
