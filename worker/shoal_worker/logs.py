"""Logs: one line an event, ids as fields, and never a text.

An exception's message and its frames' variables may hold what a producer sent, so of an exception only its type and
its path through the code are written.
"""

import logging
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog
from celery.signals import setup_logging

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class Formatter(logging.Formatter):
    """For every logger of the process, Celery's and the libraries' included."""

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 logging's own name
        """The exception's type and the calls that led to it."""
        kind, _, trace = ei
        steps = " > ".join(f"{step.name}:{step.lineno}" for step in traceback.extract_tb(trace))
        return f"  {kind.__name__ if kind else 'no exception'} at {steps}"


def configure(level: str) -> None:
    """Set up this process's logs."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _leave_exceptions_to_logging,
            structlog.processors.LogfmtRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _leave_exceptions_to_logging(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("exc_info", None)
    return event


@setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery is untyped
def _keep_our_logs(**_: Any) -> None:
    """Celery leaves logging alone when somebody answers this signal."""
