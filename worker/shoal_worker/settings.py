"""Every setting of the worker, its default and its unit. The environment is read here and nowhere else."""

import difflib
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from shoal.errors import SettingsError
from shoal.publisher import is_amqp
from shoal.settings import POSTGRES_SCHEMES, PREFIX, ProducerSettings, faults_in_words


class WorkerSettings(ProducerSettings):
    """What `SHOAL_*` says to a worker, beside what producers read."""

    #: The provider's key. A local gateway may need none.
    openrouter_api_key: SecretStr | None = None
    #: Any gateway that speaks the chat-completions API can stand in.
    openrouter_base_url: str = "https://openrouter.ai/api/v1"
    #: False leaves out what only OpenRouter understands.
    openrouter_fields: bool = True
    #: Which field bounds an answer's length: older gateways know only "max_tokens".
    cap_field: str = Field(default="max_completion_tokens", pattern=r"^(max_completion_tokens|max_tokens)$")
    #: Have the provider keep answers for an hour, so that one that got lost on the way is not paid for again.
    response_cache: bool = True
    model: str = Field(default="openai/gpt-5.4-nano", min_length=1)
    #: Prices in USD for a million tokens, for replies that do not name their cost.
    price_input_usd: float = Field(default=0.20, ge=0)
    price_cached_usd: float = Field(default=0.02, ge=0)
    price_output_usd: float = Field(default=1.25, ge=0)
    app_title: str = "Shoal"
    app_url: str = ""
    #: How many jobs one worker process runs at once.
    concurrency: int = Field(default=300, ge=1, le=5_000)
    #: Calls and tokens a minute, all worker processes together. Unset: only what the provider lets us learn.
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)
    #: One call to the model, sending and reading.
    model_deadline_seconds: float = Field(default=60.0, gt=0)
    #: One attempt at a job, all its calls together.
    job_time_limit_seconds: float = Field(default=300.0, gt=0)
    #: A lease is renewed three times in this span while its job runs; a killed worker's runs out.
    lease_seconds: float = Field(default=30.0, gt=0)
    #: A message is renewed four times in this span while its job runs; a killed worker's comes back after it.
    visibility_timeout_seconds: float = Field(default=60.0, gt=0)
    #: How long a stopping worker may take to finish its jobs: what the supervisor grants before it kills.
    shutdown_grace_seconds: float = Field(default=330.0, gt=0)
    #: Dead letters are kept this long.
    dead_letter_ttl_seconds: int = Field(default=30 * 86_400, ge=60)
    log_level: str = Field(default="INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")

    #: Start on a Redis that hides INFO from us and so cannot be seen not to evict. One that shows it is looked at.
    redis_trusted: bool = False

    #: Unset: text where standard error is a terminal, else JSON.
    log_format: Literal["json", "text"] | None = None
    #: Where errors go. Unset: nowhere.
    sentry_dsn: SecretStr | None = None
    sentry_environment: str = Field(default="production", min_length=1, max_length=64, pattern=r"^[^\s/]+$")
    #: Unset: the version of the package.
    sentry_release: str | None = None
    #: Which share of the errors is sent, and of the messages as transactions.
    sentry_sample_rate: float = Field(default=1.0, ge=0, le=1)
    sentry_traces_sample_rate: float = Field(default=0.0, ge=0, le=1)

    #: What `shoal beat` runs, and when.
    schedule_file: Path = Path("schedule.toml")
    #: The Postgres that the schedule's queries ask. It may be any, and needs none of our tables.
    schedule_database_url: SecretStr | None = None

    @field_validator("sentry_dsn")
    @classmethod
    def _is_a_dsn(cls, value: SecretStr | None) -> SecretStr | None:
        if not value:
            return None  # deployments pass on an empty variable where they have none
        parts = urlsplit(value.get_secret_value())
        if not (parts.scheme in ("http", "https") and parts.username and parts.hostname and parts.path[1:]):
            raise ValueError("must be a DSN such as https://KEY@HOST/PROJECT, from the project's page in Sentry")
        return value

    @field_validator("openrouter_base_url")
    @classmethod
    def _is_a_base_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must be a URL such as https://openrouter.ai/api/v1")
        return value.rstrip("/")

    @field_validator("schedule_database_url")
    @classmethod
    def _is_a_postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(POSTGRES_SCHEMES):
            raise ValueError("must be the URL of a Postgres such as postgresql://user:password@host/shop")
        return value

    @model_validator(mode="after")
    def _times_hold_together(self) -> Self:
        times = [
            ("MODEL_DEADLINE_SECONDS", self.model_deadline_seconds),
            ("JOB_TIME_LIMIT_SECONDS", self.job_time_limit_seconds),
            ("SHUTDOWN_GRACE_SECONDS", self.shutdown_grace_seconds),
        ]
        pairs = [*pairwise(times)]
        pairs.append(
            (
                ("LEASE_SECONDS", self.lease_seconds),
                ("VISIBILITY_TIMEOUT_SECONDS", self.visibility_timeout_seconds),
            )
        )
        wrong = [
            f"{PREFIX}{short} ({low:g}) must be less than {PREFIX}{long} ({high:g})"
            for (short, low), (long, high) in pairs
            if low >= high
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def beats(self) -> SecretStr:
        """Where beats keep how they stand: beside the queue, where whoever watches it looks."""
        return self.redis_url if is_amqp(self.queue.get_secret_value()) else self.queue

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment. Raises `SettingsError` that lists every fault, each with its fix."""
        faults = _misspelt(cls, os.environ)
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            raise SettingsError("\n".join([faults_in_words(error), *faults])) from None
        if faults:
            raise SettingsError("\n".join(["the settings are wrong:", *faults]))
        return settings


def _misspelt(cls: type[WorkerSettings], environ: Mapping[str, str]) -> list[str]:
    """A variable of ours that nobody reads is a mistake that would otherwise show much later."""
    known = {PREFIX + name.upper() for name in cls.model_fields}
    lines = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and not name.startswith(f"{PREFIX}TEST_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            lines.append(f"  {name}: no such setting" + (f"; did you mean {near[0]}?" if near else ": unset it"))
    return lines
