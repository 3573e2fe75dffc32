"""What worker processes tell of themselves. Of another version it may lack something, or have more."""

from collections import Counter

from pydantic import Field

from shoal.jobs import Wire


class Minute(Wire):
    """The last minute of a worker. `calls` were sent to a provider, `refused` are those it had no room for.

    Cost and tokens are those of replies that came. `failures` are attempts at jobs that ended without an answer, by
    cause.
    """

    calls: int = 0
    refused: int = 0
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    failures: dict[str, int] = Field(default_factory=dict)

    def __add__(self, other: "Minute") -> "Minute":
        summed = {
            name: getattr(self, name) + getattr(other, name) for name in Minute.model_fields if name != "failures"
        }
        return Minute(**summed, failures=dict(Counter(self.failures) + Counter(other.failures)))


class ModelCalls(Wire):
    """Calls of one model. `in_flight` and `waiting` are one worker's where it tells them, else all workers' together.

    The rest is always what all with one key and gateway have found out: calls a second (None: no limit is known),
    seconds that nobody calls for, seconds to the breaker's next probe (None: it is closed), and how long a call takes.
    """

    model: str
    in_flight: int = 0
    waiting: int = 0
    rate: float | None = None
    paused_seconds: float = 0.0
    probe_seconds: float | None = None
    usual_seconds: float = 0.0


class Progress(Wire):
    """Whether a worker gets on. What one of before health checks does not tell is well.

    `node` is Celery's name of it; `is_stopping`: nothing begins there any more. `hub_silent_seconds`: since the
    consumer's thread turned last. `stalled_seconds`: for how long messages have waited that it had room for, while none
    came.
    """

    node: str = ""
    is_stopping: bool = False
    hub_silent_seconds: float = 0.0
    stalled_seconds: float = 0.0


class WorkerReport(Wire):
    """What a worker process tells of itself each second.

    `slots` is how many jobs it may run at once, `held` how many it has, running ones included. `capacity_per_second` is
    what it would end if all slots were in use, limits considered. `memory_bytes` is 0 where the system does not tell;
    `gateway` names the provider and the key that it calls with, and neither can be read out of it. `version` is that of
    its code, '' where not told.
    """

    name: str
    slots: int
    running: int
    held: int
    done_per_second: float
    capacity_per_second: float
    memory_bytes: int = 0
    gateway: str = ""
    calls: tuple[ModelCalls, ...] = ()
    minute: Minute = Minute()
    version: str = ""
    progress: Progress = Progress()

    @property
    def host(self) -> str:
        """The name of its machine, or container. `name` is PID@HOST/CHANCE."""
        return self.name.partition("@")[2].rpartition("/")[0]
