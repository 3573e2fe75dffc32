import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest
import structlog

from shoal_worker import logs
from shoal_worker.logs import ExcInfo, Form, formatter


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, name in ((warnings, "formatwarning"), (sys, "excepthook"), (sys, "unraisablehook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    root, configuration = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configuration)
    structlog.contextvars.clear_contextvars()


def configure(form: Form | None = None) -> None:
    """As a new process does, where nobody has set up logging before."""
    logging.getLogger().handlers.clear()
    logs.configure("INFO", form)


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_shows_its_path_and_neither_its_message_nor_what_it_held(form: Form) -> None:
    record = logging.LogRecord("shoal", logging.ERROR, __file__, 1, "worker_bug", (), _failure("a customer's words"))
    said = formatter(form).format(record)
    assert "worker_bug" in said
    assert "KeyError at _failure:" in said
    assert "customer" not in said


def _failure(text: str) -> ExcInfo:
    try:
        raise KeyError(text)
    except KeyError as error:
        return type(error), error, error.__traceback__


def test_a_line_says_which_job_it_is_about_whoever_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    structlog.contextvars.bind_contextvars(job_id="j1", kind="classify", tenant="acme", attempt=2)
    structlog.get_logger().warning("call_not_settled", error="TimeoutError")
    logging.getLogger("celery.worker").warning("lost %s", "a connection")
    try:
        raise KeyError("a customer's words")
    except KeyError:
        structlog.get_logger().exception("worker_bug")
    ours, celerys, crash = map(json.loads, capsys.readouterr().err.splitlines())
    job = {"job_id": "j1", "kind": "classify", "tenant": "acme", "attempt": 2}
    for line in (ours, celerys, crash):
        assert job.items() <= line.items()
        assert line["timestamp"].endswith("Z")
    assert (ours["event"], ours["level"], ours["error"]) == ("call_not_settled", "warning", "TimeoutError")
    assert (celerys["event"], celerys["logger"]) == ("lost a connection", "celery.worker")
    assert crash["exception"].startswith("KeyError at test_a_line")
    assert "customer" not in str(crash)


def test_logs_are_json_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    logging.getLogger("shoal").info("first")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure()
    logging.getLogger("shoal").info("second")
    first, second = capsys.readouterr().err.splitlines()
    assert json.loads(first)["event"] == "first"
    assert second.endswith("[info] second [shoal]")


def test_a_warning_is_named_by_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure("json")
        warnings.warn("input_value='a customer's words'", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    said = json.loads(capsys.readouterr().err)
    assert said["event"].startswith("UserWarning at ")
    assert "customer" not in str(said)


def test_a_librarys_line_names_exceptions_by_their_type(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    celery = logging.getLogger("celery")
    celery.error("Unrecoverable error: %r", KeyError("a customer's words"))
    celery.error("Task %(name)s: %(exc)s", {"name": "shoal.pack", "exc": repr(ValueError("a customer's words"))})
    celery.error("Cannot connect to %s: %s", "shoal://:**@one", ConnectionRefusedError("refused by one:6379"))
    celery.warning("100 % of it")
    said = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "Unrecoverable error: 'KeyError'",
        "Task shoal.pack: ValueError",
        "Cannot connect to shoal://:**@one: refused by one:6379",
        "100 % of it",
    ]


@pytest.mark.parametrize("where", ["here", "in a thread", "where nobody can catch it"])
def test_what_nobody_catches_is_logged_without_its_message(where: str) -> None:
    code = """\
import sys, threading
from shoal_worker import logs
logs.configure("INFO", "json")
class Held:
    def __del__(self): fail()
def fail(): raise KeyError("a customer's " + "words")
held = Held()
if sys.argv[1] == "here": fail()
if sys.argv[1] == "in a thread": threading.Thread(target=fail).start()
"""
    ended = subprocess.run([sys.executable, "-c", code, where], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {line["event"] for line in lines} == {"uncaught"}
    assert lines[0]["exception"].startswith("KeyError at ")
    assert "customer" not in ended.stderr
