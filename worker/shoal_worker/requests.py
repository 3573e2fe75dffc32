"""What Celery tells of a task that a worker has, to remote control, in events, and so to Flower: never a text."""

from typing import Any

from celery.worker.request import Request as CeleryRequest

from shoal import wire


class Request(CeleryRequest):
    """Chosen by each task's `Request`. Celery's own tells the arguments of tasks that wait in a worker as they are."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        if wire.TENANT_HEADER not in self.request_dict:
            # No message of ours: its sender's client has put the arguments into the columns that Flower shows.
            self._argsrepr, self._kwargsrepr = "()", f"{{'bytes': {len(self.body)}}}"

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 Celery's signature
        """For `inspect`; who asks has no choice."""
        shown: dict[str, Any] = super().info(safe=True)
        return shown
