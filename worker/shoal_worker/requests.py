"""Celery's view of a message in a worker, which shows its sizes and nothing that it holds.

What remote control (`celery inspect`), events and Flower tell of a task is made of it. Celery shows whole arguments to
whoever asks, and believes what a producer says that they are.
"""

import re
from typing import Any

from celery.worker.request import Request as CeleryRequest

#: What our own producers say (`wire.py`): kind, tenant, and numbers.
SHOWN = re.compile(
    r"\{(?:'(?:kind|tenant)': '[\w.@-]*'(?:, )?|'(?:jobs|attempt|bytes|labels|documents|fields)': \d+(?:, )?)+\}"
)
NO_ARGS = "()"


class Request(CeleryRequest):
    """Chosen by each task's `Request`."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        said: object = self._request_dict.get("kwargsrepr")
        if not (isinstance(said, str) and SHOWN.fullmatch(said)):
            said = f"{{'bytes': {len(self._body or '')}}}"
        self._argsrepr, self._kwargsrepr = NO_ARGS, said
        self._request_dict |= {"argsrepr": NO_ARGS, "kwargsrepr": said}

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 whoever asks may say that it wants all
        told: dict[str, Any] = super().info(safe=True)
        return told
