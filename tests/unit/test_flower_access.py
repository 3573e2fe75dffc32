"""Who may use Flower is decided before it listens; what would leave it open is refused by name."""

from pathlib import Path

import click
import pytest

from shoal.errors import SettingsError
from shoal_worker.flower_access import access_of, is_loopback
from shoal_worker.flower_app import PORT, kept_in, port_of

LOGIN = {"FLOWER_BASIC_AUTH": "ada:countess,eve:mallory"}
OAUTH = {
    "FLOWER_AUTH": ".*@example.org",
    "FLOWER_AUTH_PROVIDER": "flower.views.auth.GithubLoginHandler",
    "FLOWER_OAUTH2_KEY": "key",
    "FLOWER_OAUTH2_SECRET": "secret",
    "FLOWER_OAUTH2_REDIRECT_URI": "https://flower.example.org/login",
}


def faults(environ: dict[str, str], host: str = "127.0.0.1") -> str:
    with pytest.raises(SettingsError) as refused:
        access_of(environ, host)
    return str(refused.value)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.4", "flower.internal"])
def test_open_to_others_it_does_not_start_and_names_what_to_set(host: str) -> None:
    assert not is_loopback(host)
    assert "set FLOWER_BASIC_AUTH=user:password" in faults({}, host)
    assert access_of(LOGIN, host).logins == ("ada:countess", "eve:mallory")
    assert access_of(OAUTH, host).is_closed


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_it_needs_no_login(host: str) -> None:
    assert not access_of({}, host).is_closed


@pytest.mark.parametrize("value", ["true", "1", "yes", "on", "maybe"])
@pytest.mark.parametrize("environ", [{}, LOGIN, OAUTH])
def test_the_unauthenticated_api_is_refused_always(environ: dict[str, str], value: str) -> None:
    assert "FLOWER_UNAUTHENTICATED_API: unset it" in faults({**environ, "FLOWER_UNAUTHENTICATED_API": value})
    assert access_of({**environ, "FLOWER_UNAUTHENTICATED_API": "false"}, "::1")


@pytest.mark.parametrize("login", ["ada", "ada:", ":countess", "ada:countéss", "ada:countess,eve"])
def test_a_login_that_is_none_is_refused_without_showing_it(login: str) -> None:
    said = faults({"FLOWER_BASIC_AUTH": login})
    assert "must be user:password in ASCII" in said
    assert "count" not in said


def test_secrets_come_from_files_too(tmp_path: Path) -> None:
    secret = tmp_path / "login"
    secret.write_text("ada:countess\neve:mallory\n")
    assert access_of({"FLOWER_BASIC_AUTH_FILE": str(secret)}, "0.0.0.0").logins == ("ada:countess", "eve:mallory")
    assert "or FLOWER_BASIC_AUTH_FILE, not both" in faults({**LOGIN, "FLOWER_BASIC_AUTH_FILE": str(secret)})
    assert "cannot be read: FileNotFoundError" in faults({"FLOWER_BASIC_AUTH_FILE": str(tmp_path / "none")}, "0.0.0.0")
    secret.write_text("\n")
    assert "FLOWER_BASIC_AUTH_FILE: is empty" in faults({"FLOWER_BASIC_AUTH_FILE": str(secret)}, "0.0.0.0")


def test_oauth_names_all_that_it_lacks() -> None:
    said = faults({"FLOWER_AUTH": "*@*", "FLOWER_OAUTH2_KEY": "key"})
    for name in ("FLOWER_AUTH_PROVIDER", "FLOWER_OAUTH2_SECRET", "FLOWER_OAUTH2_REDIRECT_URI"):
        assert name in said
    assert "FLOWER_OAUTH2_KEY" not in said
    assert "or .*@one.domain" in said


def test_cookies_are_signed_alike_in_all_replicas() -> None:
    derived = access_of(OAUTH, "::").cookie_secret
    assert derived == access_of(OAUTH, "0.0.0.0").cookie_secret
    assert derived != access_of({**OAUTH, "FLOWER_OAUTH2_SECRET": "another"}, "::").cookie_secret
    assert access_of({**OAUTH, "FLOWER_COOKIE_SECRET": "chosen"}, "::").cookie_secret == "chosen"


def test_what_it_remembers_is_kept_where_nobody_else_can_write(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    folder = tmp_path / "flower"
    assert kept["db"] == str(folder / "state")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(SettingsError, match="must be ours alone"):
        kept_in(tmp_path)


def test_a_service_of_that_name_in_kubernetes_sets_no_port() -> None:
    assert port_of(None, None, "tcp://10.0.0.9:5555") == PORT
    assert port_of(None, None, "5556") == 5556
    with pytest.raises(click.BadParameter, match="'many' is not a valid integer"):
        port_of(None, None, "many")
