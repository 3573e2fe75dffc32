"""What `shoal up` shows, and what it refuses before anything is started."""

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from shoal.errors import SettingsError
from shoal_worker.up import up, without_login


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (SecretStr("postgresql://ann:p@ss/word@host:5432/shoal"), "postgresql://host:5432/shoal"),
        (SecretStr("redis://:secret@127.0.0.1:6379/0"), "redis://127.0.0.1:6379/0"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        (SecretStr("amqp://u:p@host:5672//"), "amqp://host:5672//"),
        (None, ""),
    ],
)
def test_no_password_is_shown(url: SecretStr | str | None, shown: str) -> None:
    assert without_login(url) == shown


def test_an_open_flower_is_refused_before_anything_is_started() -> None:
    ran = CliRunner(env={"FLOWER_UNAUTHENTICATED_API": "true"}).invoke(up, ["--sandbox"])
    assert isinstance(ran.exception, SettingsError)
    assert "FLOWER_UNAUTHENTICATED_API: unset it" in str(ran.exception)
