"""Whether a server's clock and ours agree."""

from collections.abc import Iterator
from dataclasses import dataclass

from shoal_worker.doctor.findings import Finding, fault, fine, warning

#: Jobs are given a time to live by one clock and ended by another: this much takes a noticeable part of it.
MOST_SECONDS = 30.0
NOTICED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Unix seconds: ours before and after the server was asked, and the server's."""

    before: float
    after: float
    theirs: float

    @property
    def ahead_seconds(self) -> float:
        """How far our clock is ahead of the server's at the least; negative where it is behind."""
        if self.before > self.theirs:
            return self.before - self.theirs
        return min(0.0, self.after - self.theirs)

    def findings(self, name: str) -> Iterator[Finding]:
        apart = abs(self.ahead_seconds)
        if apart < NOTICED_SECONDS:
            yield fine("clock", f"this clock agrees with that of {name}")
            return
        what = f"this clock is {apart:.0f} s {'ahead of' if self.ahead_seconds > 0 else 'behind'} that of {name}"
        why = "jobs expire too early or too late, retries come at the wrong time, and costs count in the wrong day"
        fix = "timedatectl set-ntp true, on both machines"
        yield (fault if apart >= MOST_SECONDS else warning)("clock", what, why, fix)
