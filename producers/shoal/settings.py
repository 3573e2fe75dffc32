"""What a producer can set: `SHOAL_*` in the environment or in `.env`."""

import os
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from shoal.errors import SettingsError
from shoal.publisher import is_amqp
from shoal.redis_url import Sentinels, is_sentinel, tls_options

PREFIX = "SHOAL_"
#: What a tenant's name may be.
TENANT: dict[str, Any] = {"max_length": 100, "pattern": r"^[\w.@-]*$"}
POSTGRES_SCHEMES = ("postgresql://", "postgres://")
S = TypeVar("S", bound="ProducerSettings")


class ProducerSettings(BaseSettings):
    """Where the queue is and how long things are kept. Every name is `SHOAL_` and the field's, in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    #: The queue and the results, unless told otherwise. May hold a password, hence secret.
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    #: Where jobs wait, if not there: another Redis, or RabbitMQ.
    queue_url: SecretStr | None = None
    #: Where jobs, results, leases and dead letters are kept, if not there: another Redis, or Postgres.
    result_url: SecretStr | None = None
    #: Answers are kept this long after they came.
    result_ttl_seconds: int = Field(default=86_400, ge=60)
    #: A job without an answer is given up after this long.
    job_lifetime_seconds: int = Field(default=86_400, ge=1)
    #: Whose jobs these are: keeps keys apart, and is named in reports.
    tenant: str = Field(default="", **TENANT)

    #: Keys that sign messages, separated by commas: the first signs, all are accepted. Unset: nothing is signed.
    signing_keys: SecretStr | None = None

    #: A folder with a file for each secret, named as its variable in any case; a variable that is set comes first.
    secrets_dir: Path | None = Field(default=None, repr=False)

    redis_schemes: ClassVar[tuple[str, ...]] = ("redis://", "rediss://", "sentinel://")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Of pydantic-settings: the environment names the folder of secrets, which a class cannot know."""
        folder = os.environ.get(f"{PREFIX}SECRETS_DIR")
        if folder and Path(folder).is_dir():
            file_secret_settings = SecretsSettingsSource(settings_cls, folder)
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @field_validator("secrets_dir")
    @classmethod
    def _is_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("must be a folder, with files such as shoal_redis_url in it")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(cls.redis_schemes):
            raise ValueError(f"must be a Redis URL such as redis://127.0.0.1:6379/0 or {Sentinels.form}")
        if is_sentinel(value.get_secret_value()):
            Sentinels.of(value.get_secret_value())
        else:
            tls_options(value.get_secret_value())
        return value

    @field_validator("queue_url")
    @classmethod
    def _is_a_queue_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or is_amqp(value.get_secret_value()):
            return value
        if not value.get_secret_value().startswith(cls.redis_schemes):
            raise ValueError("must be the URL of a Redis, or of a RabbitMQ such as amqp://user:password@host:5672//")
        return cls._is_a_redis_url(value)

    @field_validator("result_url")
    @classmethod
    def _is_a_result_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or value.get_secret_value().startswith(POSTGRES_SCHEMES):
            return value
        if not value.get_secret_value().startswith(cls.redis_schemes):
            raise ValueError(
                "must be the URL of a Redis, or of a Postgres such as postgresql://user:password@host/shoal"
            )
        return cls._is_a_redis_url(value)

    @property
    def queue(self) -> SecretStr:
        """Where jobs wait."""
        return self.queue_url or self.redis_url

    @property
    def results(self) -> SecretStr:
        """Where jobs and their endings are kept."""
        return self.result_url or self.redis_url

    @property
    def has_outbox(self) -> bool:
        """Whether messages reach the queue through an outbox beside the jobs: no script can write to both."""
        return self.queue != self.results

    @property
    def in_postgres(self) -> bool:
        """Whether jobs are kept in Postgres."""
        return self.results.get_secret_value().startswith(POSTGRES_SCHEMES)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment. Raises `SettingsError` that lists every fault, each with its fix."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError(faults_in_words(error)) from None


def faults_in_words(error: ValidationError) -> str:
    """One line a fault: the variable, what is wrong, and never the value."""
    lines = []
    for fault in error.errors(include_input=False, include_url=False):
        name = "_".join(str(part) for part in fault["loc"]).upper()
        said = fault["msg"].removeprefix("Value error, ")
        lines.append(f"  {PREFIX + name}: {said}" if name else f"  {said}")
    return "the settings are wrong:\n" + "\n".join(lines)
