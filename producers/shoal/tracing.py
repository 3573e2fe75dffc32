"""Traces of a backend that has OpenTelemetry's API (`pip install 'shoal[otel]'`); without it nothing happens here.

An enqueueing is a span of the backend's trace, and its messages carry the context on to the worker, as W3C
`traceparent`. Baggage stays here: it may name people.
"""

from collections.abc import Iterator
from contextlib import contextmanager

TRACEPARENT = "traceparent"

try:
    from opentelemetry.trace import SpanKind, get_tracer
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError:

    @contextmanager
    def enqueueing(kind: str) -> Iterator[None]:  # noqa: ARG001 what the other one says of it
        """A span around it."""
        yield

    def carrier() -> dict[str, str]:
        """The headers that carry the trace of now; none outside of any."""
        return {}

else:
    _tracer = get_tracer("shoal")
    _propagator = TraceContextTextMapPropagator()

    @contextmanager
    def enqueueing(kind: str) -> Iterator[None]:
        """A span around it."""
        attributes = {
            "messaging.system": "celery",
            "messaging.operation.type": "send",
            "messaging.operation.name": "enqueue",
            "shoal.kind": kind,
        }
        with _tracer.start_as_current_span(
            f"enqueue {kind}",
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            record_exception=False,  # its message may hold what was to be enqueued
            set_status_on_exception=False,
        ):
            yield

    def carrier() -> dict[str, str]:
        """The headers that carry the trace of now; none outside of any."""
        headers: dict[str, str] = {}
        _propagator.inject(headers)
        return headers
