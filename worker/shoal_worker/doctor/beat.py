"""The schedule and the beat that runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shoal import wire
from shoal.errors import SettingsError
from shoal_worker.doctor.findings import Finding, fault, fine, warning
from shoal_worker.schedule import load
from shoal_worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Facts:
    """`entries` is how many the schedule has here, 0 where this machine has no schedule."""

    entries: int = 0
    #: What is wrong with the schedule; then its entries are not known.
    faults: str = ""
    #: The beat that leads, '' for none.
    leader: str = ""


async def look(settings: WorkerSettings, client: "Redis") -> Facts:
    """Does not raise: a Redis that is away has no leader that is known."""
    entries, faults = 0, ""
    if settings.schedule_file.exists():
        try:
            entries = len(load(settings.schedule_file, has_database=settings.schedule_database_url is not None))
        except SettingsError as error:
            faults = str(error)
    try:
        said: Any = await client.get(wire.BEAT_LEADER)
    except (RedisError, OSError):
        said = None
    return Facts(entries, faults, said.decode().partition(" ")[2] if said else "")


def findings(facts: Facts) -> Iterator[Finding]:
    if facts.faults:
        why = "no beat starts on it, and one that restarts is gone"
        yield fault("schedule", facts.faults, why, "mend it, then `shoal schedule check`")
    if facts.leader:
        yield fine("beat", f"the beat {facts.leader} leads")
    elif facts.entries:
        what = f"the schedule has entries ({facts.entries}), and no beat leads"
        why = "nothing of it runs; what was missed is made up for as each entry says when one is there"
        yield warning("beat", what, why, "start two, one for the case that the other dies: `shoal beat`")
