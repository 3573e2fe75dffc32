"""What the sandbox is told to do: latency, an in-flight budget, a capacity, and faults by number, share or time."""

from random import Random
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shoal_worker.sandbox.faults import DEFAULT_SECONDS, MAX_SECONDS, Fault, FaultCall

Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]


class FaultRule(BaseModel):
    """When a fault is played: every condition that is given must hold; with none it is always played.

    Requests are counted from 1 and `to_request` is the last one meant; seconds run from the moment the scenario
    was set, `to_seconds` excluded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault
    param: Seconds = DEFAULT_SECONDS
    from_request: Annotated[int, Field(ge=1)] | None = None
    to_request: Annotated[int, Field(ge=1)] | None = None
    from_seconds: Seconds | None = None
    to_seconds: Seconds | None = None
    share: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _spans_run_forward(self) -> Self:
        if self.from_request and self.to_request and self.to_request < self.from_request:
            raise ValueError("to_request is before from_request")
        if self.from_seconds and self.to_seconds is not None and self.to_seconds <= self.from_seconds:
            raise ValueError("to_seconds is not after from_seconds")
        return self

    def speaks(self, number: int, elapsed_seconds: float, rng: Random) -> bool:
        """Whether this rule strikes request `number`, `elapsed_seconds` into the scenario."""
        return (
            (self.from_request is None or number >= self.from_request)
            and (self.to_request is None or number <= self.to_request)
            and (self.from_seconds is None or elapsed_seconds >= self.from_seconds)
            and (self.to_seconds is None or elapsed_seconds < self.to_seconds)
            and (self.share is None or rng.random() < self.share)
        )


class Scenario(BaseModel):
    """A run's script. Latency is `latency_seconds` plus up to `jitter_seconds`, drawn from `seed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_seconds: Seconds = 0.0
    jitter_seconds: Seconds = 0.0
    seed: int = 1
    keep_bodies: bool = False
    #: What all requests in flight may hold together, in USD. None: no such budget.
    in_flight_budget_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    #: How many calls a second the provider takes, with bursts of one second's worth. None: all of them.
    capacity_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    #: Whether every key is refused, as one that was disabled.
    key_is_refused: bool = False
    #: What the key may spend, in USD. None: the key has no limit.
    key_limit_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    faults: tuple[FaultRule, ...] = ()


class Playback:
    """A scenario being played: its clock, its count of requests and its dice."""

    def __init__(self, scenario: Scenario, now: float) -> None:
        self.scenario = scenario
        self._started = now
        self._requests = 0
        self._rng = Random(scenario.seed)

    def next_fault(self, now: float) -> FaultCall | None:
        """Count one request, and tell which fault the scenario has for it."""
        self._requests += 1
        for rule in self.scenario.faults:
            if rule.speaks(self._requests, now - self._started, self._rng):
                return FaultCall(rule.fault, rule.param)
        return None

    def latency_seconds(self) -> float:
        scenario = self.scenario
        if not scenario.jitter_seconds:
            return scenario.latency_seconds
        return scenario.latency_seconds + self._rng.uniform(0, scenario.jitter_seconds)
