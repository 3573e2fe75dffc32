"""Watches what is stored and announced: an answer that is there must never change, nor be announced again."""

import hashlib
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from matrix_stores import Store, StoreAway

LOOK_EVERY_SECONDS = 0.1


@dataclass
class Watch:
    """`doubled` are the jobs that had a second answer. `seen_at` says when a job's answer was first seen."""

    store: Store
    jobs: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    seen_at: dict[str, float] = field(default_factory=dict)
    _stored: dict[str, bytes] = field(default_factory=dict)
    _announced: dict[str, bytes] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_EVERY_SECONDS):
            try:
                self.look()
            except StoreAway:
                continue

    def look(self) -> None:
        for job_id, record in self.store.announced():
            if job_id in self._announced:
                self.doubled.add(job_id)
            self._announced[job_id] = self._same(job_id, record)
        self.compare(tuple(self.jobs))

    def compare(self, job_ids: Iterable[str]) -> None:
        """Hold what is stored now against what was seen before."""
        for job_id, record in self.store.answers(job_ids).items():
            self._stored[job_id] = self._same(job_id, record)

    def _same(self, job_id: str, record: bytes) -> bytes:
        self.seen_at.setdefault(job_id, time.time())
        digest = hashlib.sha256(record).digest()
        if any(known.get(job_id, digest) != digest for known in (self._stored, self._announced)):
            self.doubled.add(job_id)
        return digest
