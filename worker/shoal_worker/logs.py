"""Logs: one event a line, with the job it belongs to, and never a text.

Every logger of the process writes through one formatter, Celery's and the libraries' included. An exception's message
and its frames' variables may hold what a producer sent, so of an exception only its type and its path through the code
are written, and of a warning its place.
"""

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

import structlog
from celery.signals import celeryd_init, setup_logging
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.typing import EventDict, Processor, WrappedLogger

Form = Literal["json", "text"]
_OF_CONNECTIONS = (OSError, RedisConnectionError, OperationalError)
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure(level: str, form: Form | None = None) -> None:
    """Set up this process's logs on standard error. None: text for a terminal, else JSON."""
    chosen = form or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(chosen))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    # On DEBUG it shows what it is given.
    logging.getLogger("celery.pool").setLevel(logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    sys.excepthook = _log_uncaught
    threading.excepthook = sys.unraisablehook = _log_uncaught_elsewhere
    warnings.formatwarning = _place_of
    logging.captureWarnings(True)
    if chosen == "json":
        celeryd_init.connect(_leave_out_the_banner, weak=False)


def formatter(form: Form) -> structlog.stdlib.ProcessorFormatter:
    """A line for a person, or a JSON object a line."""
    renderers: dict[Form, Processor] = {
        "json": structlog.processors.JSONRenderer(ensure_ascii=False),
        "text": structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, pad_level=False),
    }
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars, _say],
        use_get_message=False,
        pass_foreign_args=True,
        processors=[
            _stamp,
            # Before the renderers, who would show an exception whole.
            structlog.processors.ExceptionRenderer(path_of),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderers[form],
        ],
    )


def path_of(exc_info: Any) -> str:
    """The exception's type and the calls that led to it."""
    kind, _, trace = exc_info
    steps = " > ".join(f"{step.name}:{step.lineno}" for step in traceback.extract_tb(trace))
    return f"{kind.__name__} at {steps}"


_utc = structlog.processors.TimeStamper(fmt="iso", utc=True)


def _stamp(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event.update(level=record.levelname.lower(), logger=record.name)
    return _utc(logger, name, event)


def _say(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A library's line, with each exception in it by its type."""
    args = event.pop("positional_args")
    if isinstance(args, Mapping):
        # Celery's tracer puts an exception into words before it logs it.
        safe: Any = {name: _named(value) for name, value in args.items()}
        safe |= {"exc": str(args["exc"]).partition("(")[0]} if "exc" in args else {}
    else:
        safe = tuple(map(_named, args))
    event["event"] = event["event"] % safe if args else event["event"]
    return event


def _named(value: object) -> object:
    """Why there is no connection may be told."""
    is_private = isinstance(value, BaseException) and not isinstance(value, _OF_CONNECTIONS)
    return type(value).__name__ if is_private else value


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Python would write the exception's message."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), trace)
    else:
        logging.getLogger(__name__).critical("uncaught", exc_info=(kind, error or kind(), trace))


def _log_uncaught_elsewhere(uncaught: Any) -> None:
    """In a thread, or where an object goes."""
    _log_uncaught(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)


def _place_of(
    message: Warning | str,  # noqa: ARG001 pydantic's name the value that they are about
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,  # noqa: ARG001 the caller's signature
) -> str:
    return f"{category.__name__} at {filename}:{lineno}"


def _leave_out_the_banner(instance: Any, **_: Any) -> None:
    instance.quiet = True


@setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery is untyped
def _keep_our_logs(**_: Any) -> None:
    """Celery leaves logging alone when somebody answers this signal."""
