"""Shoal's own producer, measured like the peers'. `BENCH_LANE` says how jobs are queued: `single`, `sync` or `bulk`."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import uvloop

from peer import PATIENCE_SECONDS, Said, gathered, main
from question import LABELS, text_of
from shoal import AsyncShoal, Classify, ClassifyResult, Shoal


def question(text: str) -> Classify:
    return Classify(text=text, labels=LABELS)


def enqueue(texts: list[str]) -> None:
    lane = os.environ["BENCH_LANE"]
    if lane == "single":
        uvloop.run(enqueue_gathered(texts))
        return
    with Shoal() as shoal:
        questions = map(question, texts)
        if lane == "bulk":
            shoal.enqueue_many(questions)
        else:
            for one in questions:
                shoal.enqueue(one)


async def enqueue_gathered(texts: list[str]) -> None:
    async with AsyncShoal() as shoal:
        await gathered(lambda text: shoal.enqueue(question(text)), texts)


def said(result: ClassifyResult) -> Said:
    assert result.evidence is not None
    return {"label": result.label, "evidence": result.evidence.quote}


def answers(count: int) -> list[Said]:
    """Through the public API, wherever results are kept. To enqueue again must join what was queued before."""
    found: list[Said] = uvloop.run(joined(count))
    return found


async def joined(count: int) -> list[Said]:
    found: list[Said] = []

    async def read(text: str) -> None:
        job = await shoal.enqueue(question(text))
        assert job.joined, text
        found.append(said(await job.result(PATIENCE_SECONDS)))

    async with AsyncShoal() as shoal:
        await gathered(read, [text_of(number) for number in range(count)])
    return found


async def open_alone(drive: Callable[[Callable[[str], Awaitable[Said]]], Awaitable[None]]) -> None:
    async with AsyncShoal() as shoal:

        async def one(text: str) -> Said:
            return said(await (await shoal.enqueue(question(text))).result(30))

        await drive(one)


if __name__ == "__main__":
    main(enqueue, answers, lambda drive: asyncio.run(open_alone(drive)))
