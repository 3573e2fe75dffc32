"""What happened in a process within the last minute, by name: counted for each call, added up once a second."""

from collections import defaultdict, deque
from collections.abc import Mapping

from shoal.jobs import Usage
from shoal.reports import Minute

SECONDS = 60.0
_FAILED = "failed."


class LastMinute:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._newest: defaultdict[str, float] = defaultdict(float)
        self._past: deque[tuple[float, Mapping[str, float]]] = deque()

    def called(self, usage: Usage, *, refused: bool = False) -> None:
        """A call was sent and is over."""
        newest = self._newest
        newest["calls"] += 1
        newest["refused"] += refused
        newest["input_tokens"] += usage.input_tokens
        newest["output_tokens"] += usage.output_tokens
        newest["cost_usd"] += usage.cost_usd

    def failed(self, cause: str) -> None:
        """An attempt at a job has ended without an answer."""
        self._newest[_FAILED + cause] += 1

    def told(self, now: float) -> Minute:
        """The sums. `now` is monotonic; what was counted since the last time counts as of now."""
        self._past.append((now, self._newest))
        self._newest = defaultdict(float)
        while self._past[0][0] <= now - SECONDS:
            self._past.popleft()
        sums: defaultdict[str, float] = defaultdict(float)
        for _, counted in self._past:
            for name, number in counted.items():
                sums[name] += number
        failures = {name.removeprefix(_FAILED): sums.pop(name) for name in list(sums) if name.startswith(_FAILED)}
        return Minute.model_validate({**sums, "failures": failures})
