from pathlib import Path

import pytest

from shoal.errors import SettingsError
from shoal_worker.settings import WorkerSettings


def test_all_faults_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_REDIS_URL", "http://nowhere")
    monkeypatch.setenv("SHOAL_CONCURRENCY", "0")
    monkeypatch.setenv("SHOAL_CONCURENCY", "5")
    with pytest.raises(SettingsError) as error:
        WorkerSettings.load()
    said = str(error.value)
    assert "SHOAL_REDIS_URL: must be a Redis URL such as" in said
    assert "SHOAL_CONCURRENCY: Input should be greater than or equal to 1" in said
    assert "SHOAL_CONCURENCY: no such setting; did you mean SHOAL_CONCURRENCY?" in said
    assert "nowhere" not in said


def test_times_that_do_not_hold_together_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_MODEL_DEADLINE_SECONDS", "500")
    monkeypatch.setenv("SHOAL_LEASE_SECONDS", "60")
    with pytest.raises(SettingsError) as error:
        WorkerSettings.load()
    assert "SHOAL_MODEL_DEADLINE_SECONDS (500) must be less than SHOAL_JOB_TIME_LIMIT_SECONDS (300)" in str(error.value)
    assert "SHOAL_LEASE_SECONDS (60) must be less than SHOAL_VISIBILITY_TIMEOUT_SECONDS (60)" in str(error.value)


def test_a_dot_env_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SHOAL_MODEL=other/model\n")
    assert WorkerSettings.load().model == "other/model"


def test_keys_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_OPENROUTER_API_KEY", "sk-or-v1-secret")
    monkeypatch.setenv("SHOAL_REDIS_URL", "redis://:hidden@localhost/0")
    shown = repr(WorkerSettings.load())
    assert "secret" not in shown
    assert "hidden" not in shown


@pytest.mark.parametrize(
    "dsn", ["https://sentry.example/7", "https://hidden@sentry.example", "hidden@sentry.example/7"]
)
def test_what_is_no_dsn_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.setenv("SHOAL_SENTRY_DSN", dsn)
    with pytest.raises(
        SettingsError, match="SHOAL_SENTRY_DSN: must be a DSN such as https://KEY@HOST/PROJECT"
    ) as error:
        WorkerSettings.load()
    assert "hidden" not in str(error.value)


def test_an_empty_dsn_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SENTRY_DSN", "")
    assert WorkerSettings.load().sentry_dsn is None


def test_secrets_come_from_files_and_a_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "shoal_redis_url").write_text("redis://:from-file@redis/0\n")
    (tmp_path / "SHOAL_OPENROUTER_API_KEY").write_text("sk-from-file\n")
    monkeypatch.setenv("SHOAL_SECRETS_DIR", str(tmp_path))
    settings = WorkerSettings.load()
    assert settings.redis_url.get_secret_value() == "redis://:from-file@redis/0"
    assert settings.openrouter_api_key is not None
    assert settings.openrouter_api_key.get_secret_value() == "sk-from-file"
    monkeypatch.setenv("SHOAL_REDIS_URL", "redis://from-variable/0")
    assert WorkerSettings.load().redis_url.get_secret_value() == "redis://from-variable/0"


def test_a_folder_of_secrets_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOAL_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="SHOAL_SECRETS_DIR: must be a folder"):
        WorkerSettings.load()
