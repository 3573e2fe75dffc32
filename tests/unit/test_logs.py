import logging

from shoal_worker.logs import ExcInfo, Formatter


def test_an_exception_shows_its_path_and_neither_its_message_nor_what_it_held() -> None:
    record = logging.LogRecord("shoal", logging.ERROR, __file__, 1, "worker_bug", (), _failure("a customer's words"))
    said = Formatter("%(message)s").format(record)
    assert "worker_bug" in said
    assert "KeyError at _failure:" in said
    assert "customer" not in said


def _failure(text: str) -> ExcInfo:
    try:
        raise KeyError(text)
    except KeyError as error:
        return type(error), error, error.__traceback__
