"""What `shoal up` shows."""

import pytest
from pydantic import SecretStr

from shoal_worker.up import without_login


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
