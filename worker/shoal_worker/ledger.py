"""What one process holds of one broker: the messages it was given, and what it has decided about them.

It outlives channels and connections. An acknowledgement that was decided while the connection was down waits
here for the next one, and a message that a task still works on stays known when its channel is gone.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from weakref import ref

T = TypeVar("T")

UNFENCED = ""  # a score nobody is sure of: settle and renew whatever delivery there is


class Ack(NamedTuple):
    """The message is done: remove it, if this delivery of it is still the newest."""

    tag: str
    score: str


class Move(NamedTuple):
    """The message goes to the end of `destination` that is taken next, under the same condition."""

    tag: str
    score: str
    destination: str
    text: str | bytes


@dataclass(slots=True)
class Holding:
    """One message in flight. `score` tells this delivery of it from later ones of the same tag."""

    score: str
    list_key: str
    message: "ref[Any] | None" = None  # None: fetched, not handed to a consumer yet

    @property
    def alive(self) -> bool:
        """Does anything in this process still refer to the message?"""
        return self.message is None or self.message() is not None


@dataclass(slots=True)
class Counts:
    fetched: int = 0
    acked: int = 0
    requeued: int = 0
    restored: int = 0
    renewed: int = 0
    lost_to_others: int = 0  # not renewed in time: another worker has it now


@dataclass(slots=True)
class Ledger:
    """All methods may be called from any thread: each step on the containers is atomic by itself."""

    in_flight: dict[str, Holding] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    _acks: deque[Ack] = field(default_factory=deque)
    _moves: deque[Move] = field(default_factory=deque)

    @property
    def undelivered_verdicts(self) -> int:
        return len(self._acks) + len(self._moves)

    def receive(self, tag: str, score: str, list_key: str) -> None:
        self.in_flight[tag] = Holding(score, list_key)
        self.counts.fetched += 1

    def hand_over(self, tag: str, message: object) -> None:
        holding = self.in_flight.get(tag)
        if holding is not None:
            holding.message = ref(message)

    def message(self, tag: str) -> Any:
        """The message in flight, if anything still refers to it."""
        holding = self.in_flight.get(tag)
        return holding.message() if holding is not None and holding.message is not None else None

    def ack(self, tag: str) -> None:
        holding = self.in_flight.pop(tag, None)
        if holding is not None:
            self._acks.append(Ack(tag, holding.score))
            self.counts.acked += 1

    def move(self, tag: str, text: str | bytes, destination: str | None = None) -> None:
        """Put a message in flight back on the list it came from, or on another one."""
        holding = self.in_flight.pop(tag, None)
        if holding is not None:
            self._moves.append(Move(tag, holding.score, destination or holding.list_key, text))
            self.counts.requeued += 1

    def move_unheld(self, move: Move) -> None:
        self._moves.append(move)

    def take_verdicts(self, at_most: int) -> tuple[list[Ack], list[Move]]:
        acks = _take(self._acks, at_most)
        return acks, _take(self._moves, at_most - len(acks))

    def put_back(self, acks: list[Ack], moves: list[Move]) -> None:
        """They may have arrived: the fence makes a second time harmless."""
        self._acks.extendleft(reversed(acks))
        self._moves.extendleft(reversed(moves))

    def renewable(self) -> list[tuple[str, str]]:
        """(tag, score) of all that is worked on. What nothing refers to any more is given up to others."""
        for tag, holding in tuple(self.in_flight.items()):
            if not holding.alive:
                self.in_flight.pop(tag, None)
        return [(tag, holding.score) for tag, holding in tuple(self.in_flight.items())]

    def renewed(self, tags: list[str], score: str, gone: list[str]) -> None:
        for tag in gone:
            # The fence stays: a late verdict about it must not touch the delivery that others have now.
            self.counts.lost_to_others += 1
            self.in_flight.pop(tag, None)
        for tag in tags:
            holding = self.in_flight.get(tag)
            if holding is not None:
                holding.score = score
        self.counts.renewed += len(tags) - len(gone)

    def unsure(self, tags: list[str]) -> None:
        """A renewal was sent and its reply was lost: the scores are old or new, nobody here knows."""
        for tag in tags:
            holding = self.in_flight.get(tag)
            if holding is not None:
                holding.score = UNFENCED


def _take(queue: deque[T], at_most: int) -> list[T]:
    return list(_popped(queue, at_most))


def _popped(queue: deque[T], at_most: int) -> Iterator[T]:
    for _ in range(at_most):
        try:
            yield queue.popleft()
        except IndexError:
            return


_ledgers: dict[tuple[object, ...], Ledger] = {}


def ledger_of(broker: tuple[object, ...]) -> Ledger:
    """The one ledger of this process for a broker, told apart by address, database and key names."""
    return _ledgers.setdefault(broker, Ledger())


# A forked child holds nothing: its parent goes on working on every message in flight.
os.register_at_fork(after_in_child=_ledgers.clear)
