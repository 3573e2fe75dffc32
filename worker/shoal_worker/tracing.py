"""Spans of jobs and of their calls to the model, where `OTEL_EXPORTER_OTLP_ENDPOINT` is set; OpenTelemetry's own
settings (`OTEL_*`) do the rest. Without it nothing is imported, nothing is wrapped, and a job costs what it did.

A job's span goes on from the context that its message carries. The jobs of a message of many share the message's: they
were enqueued by one call. Names are those of the conventions for messaging and for generative models. No span holds a
text, a prompt, an answer or an exception's message.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, assert_never
from urllib.parse import urlsplit

from structlog.contextvars import bind_contextvars, get_contextvars

from shoal import wire
from shoal.errors import SettingsError
from shoal.tracing import TRACEPARENT
from shoal_worker.errors import WorkerError
from shoal_worker.ports import ChatModel, ChatReply, ChatRequest
from shoal_worker.retry import Discard, Retry, Snooze
from shoal_worker.runner import Done, Ending, Runner

if TYPE_CHECKING:
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
SERVICE = "shoal-worker"
CLOSE_SECONDS = 2.0
_PROCESS = {"messaging.system": "celery", "messaging.operation.type": "process"}

_providers: list[Any] = []


def configure() -> None:
    """Begin to export, if there is somebody to export to. Raises `SettingsError` for a protocol that is not there."""
    if not any(map(os.environ.get, ENDPOINTS)):
        return
    named = next(filter(None, map(os.environ.get, reversed(PROTOCOLS))), "http/protobuf")
    if named != "http/protobuf":
        raise SettingsError(f"{PROTOCOLS[0]} is {named!r}: spans go by http/protobuf only; unset it, or set it to that")
    os.environ.setdefault("OTEL_SERVICE_NAME", SERVICE)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _providers[:] = [provider]


def is_on() -> bool:
    return bool(_providers)


def close() -> None:
    """Send what waits, for a short time: a collector that is away must not keep the worker."""
    if is_on():
        sending = threading.Thread(target=_providers.pop().shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)


def go_on(request: Any) -> None:
    """What follows in this task belongs to the trace that its message carries. The context ends with the task."""
    if is_on() and isinstance(traceparent := request.get(TRACEPARENT), str):
        from opentelemetry.context import attach
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        attach(TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent}))


def traced_runner(runner: Runner) -> Runner:
    """The same, with a span around each delivery of a job."""
    return TracedRunner(**{field.name: getattr(runner, field.name) for field in fields(Runner)}) if is_on() else runner


def traced_model(model: ChatModel, base_url: str) -> ChatModel:
    """The same, with a span around each call."""
    return TracedModel(model, base_url) if is_on() else model


class TracedRunner(Runner):
    async def run(
        self, task_id: str, raw: Any, signature: object = None, asked: Callable[[], None] = lambda: None
    ) -> Ending:
        with _span("process job", "CONSUMER", _PROCESS) as span:
            # For the lines of the log, those after the span's end included.
            bind_contextvars(trace_id=f"{span.get_span_context().trace_id:032x}")
            try:
                ending = await super().run(task_id, raw, signature, asked)
            finally:
                _name_job(span, task_id)
            span.set_attribute("shoal.ending", word_of(ending))
            _fail(span, cause_of(ending))
            return ending


def _name_job(span: "Span", task_id: str) -> None:
    """By what the runner has read of the message, if it could be read."""
    job = get_contextvars()
    if "kind" in job:
        span.update_name(f"process {wire.task_name(job['kind'])}")
    span.set_attribute("messaging.message.id", job.get("job_id", task_id))
    span.set_attributes({f"shoal.{name}": job[name] for name in ("kind", "tenant", "attempt") if job.get(name)})


def word_of(ending: Ending) -> str:
    match ending:
        case Done(replayed=True):
            return "replayed"
        case Done():
            return "answered"
        case Retry():
            return "retried"
        case Snooze():
            return "snoozed"
        case Discard():
            return "discarded"
        case _:
            assert_never(ending)


def cause_of(ending: Ending) -> str:
    """Why there is no answer; '' where there is one."""
    return "" if isinstance(ending, Done) else ending.cause


class TracedModel:
    """`ports.ChatModel` with a span around each call of another one."""

    def __init__(self, model: ChatModel, base_url: str) -> None:
        self._model = model
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        self._attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openrouter" if host.endswith("openrouter.ai") else host,
            "server.address": host,
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }

    async def complete(self, request: ChatRequest) -> ChatReply:
        attributes = {
            **self._attributes,
            "gen_ai.request.model": request.model,
            "gen_ai.request.max_tokens": request.prompt.max_completion_tokens,
        }
        with _span(f"chat {request.model}", "CLIENT", attributes) as span:
            try:
                reply = await self._model.complete(request)
            except WorkerError as error:
                _fail(span, error.cause)
                raise
            span.set_attributes(reply_attributes(reply))
            return reply


def reply_attributes(reply: ChatReply) -> dict[str, Any]:
    """What a span says of a reply: never its content."""
    usage = reply.usage
    return {
        "gen_ai.response.model": reply.model,
        "gen_ai.response.id": reply.generation_id,
        "gen_ai.response.finish_reasons": [reply.finish_reason],
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "shoal.cost_usd": usage.cost_usd,
    }


@contextmanager
def _span(name: str, kind: str, attributes: dict[str, Any]) -> "Iterator[Span]":
    """An exception is named by its type alone."""
    from opentelemetry.trace import SpanKind

    options: dict[str, Any] = {"record_exception": False, "set_status_on_exception": False}
    tracer = _providers[0].get_tracer("shoal_worker")
    with tracer.start_as_current_span(name, kind=SpanKind[kind], attributes=attributes, **options) as span:
        try:
            yield span
        except WorkerError:
            raise
        except BaseException as error:
            _fail(span, type(error).__name__)
            raise


def _fail(span: "Span", cause: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    if cause:
        span.set_attribute("error.type", cause)
        span.set_status(Status(StatusCode.ERROR))
