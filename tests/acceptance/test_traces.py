"""One trace from a backend's call to the model's answer, as an OpenTelemetry collector receives it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pydantic_core import from_json

from conftest import Workers, eventually
from receivers import Receiver, receiver
from shoal import Classify, Shoal, wire
from shoal.errors import SettingsError
from shoal.messages import message_of
from shoal_worker import tracing
from shoal_worker.runner import Limits, runner_for

TEXT = "the quokka was charged twice"
LABELS = ("billing", "bug")
CLIENT, PRODUCER, CONSUMER = 3, 4, 5

#: A backend with OpenTelemetry's SDK, whose own span is around what it enqueues.
BACKEND = """\
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from shoal import Classify, Shoal

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
L = ("billing", "bug")
with Shoal() as shoal, trace.get_tracer("backend").start_as_current_span("checkout"):
    shoal.enqueue(Classify(text=sys.argv[1], labels=L)).result(30)
    for job in shoal.enqueue_many(Classify(text=f"quokka {n}", labels=L) for n in range(2)):
        job.result(30)
"""


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


@pytest.fixture
def traced(workers: Workers, collector: Receiver) -> Workers:
    workers.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    workers.start(concurrency=1)
    return workers


def stop(workers: Workers) -> None:
    workers.processes[0].send_signal(signal.SIGTERM)
    workers.processes[0].wait(30)


def named(collector: Receiver, name: str, most: int = 1) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        spans = [span for span in collector.spans() if span["name"] == name]
        return spans if len(spans) >= most else []

    spans: list[dict[str, Any]] = eventually(found, what=name)
    return spans


def test_a_trace_goes_from_the_backend_through_the_queue_to_the_model(
    shoal: Shoal, traced: Workers, collector: Receiver
) -> None:
    environ = {**traced.environ, "OTEL_SERVICE_NAME": "shop"}
    subprocess.run([sys.executable, "-c", BACKEND, f"{TEXT} [[fault:server_500*1]]"], env=environ, check=True)
    for job in [shoal.enqueue(Classify(text=f"alone {number}", labels=LABELS)) for number in range(3)]:
        job.result(30)
    stop(traced)  # what waits is sent
    [checkout] = named(collector, "checkout")
    single, pack = named(collector, "enqueue classify", 2)
    all_runs = named(collector, "process shoal.classify", 7)
    runs = [run for run in all_runs if run["trace"] == checkout["trace"]]
    calls = [call for call in named(collector, "chat openai/gpt-5.4-nano", 7) if call["trace"] == checkout["trace"]]
    assert (len(runs), len(calls)) == (4, 4)
    assert {single["trace"], pack["trace"]} == {checkout["trace"]}
    # A job is begun by the end of the one before it in its slot, and has nothing of it.
    alone = [run for run in all_runs if run not in runs]
    assert [run["parent"] for run in alone] == [""] * 3
    assert len({run["trace"] for run in alone}) == 3
    assert (single["kind"], single["parent"], single["service"]) == (PRODUCER, checkout["id"], "shop")
    by_parent = {span["parent"]: span for span in calls}
    for run in runs:
        assert run["kind"] == CONSUMER
        assert run["service"] == "shoal-worker"
        assert by_parent[run["id"]]["kind"] == CLIENT
    retried = next(run for run in runs if run["shoal.ending"] == "retried")
    assert (retried["parent"], retried["error.type"], retried["failed"]) == (single["id"], "provider_unavailable", True)
    # A retry is a child of the attempt before, and the jobs of a message of many have its context.
    [second] = [run for run in runs if run["shoal.attempt"] == 2]
    assert (second["parent"], second["shoal.ending"]) == (retried["id"], "answered")
    assert [run["parent"] for run in runs].count(pack["id"]) == 2
    call = by_parent[second["id"]]
    assert call["gen_ai.operation.name"] == "chat"
    assert call["gen_ai.request.model"] == "openai/gpt-5.4-nano"
    assert call["gen_ai.usage.input_tokens"] > 0
    assert call["gen_ai.usage.output_tokens"] > 0
    assert call["gen_ai.response.finish_reasons"] == ["stop"]
    assert call["gen_ai.response.id"]
    assert by_parent[retried["id"]]["error.type"] == "provider_unavailable"
    assert b"quokka" not in collector.everything()


def test_a_log_line_names_its_trace_and_its_job(
    shoal: Shoal, workers: Workers, collector: Receiver, client: "redis.Redis"
) -> None:
    workers.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    workers.start()
    job = message_of(Classify(text=TEXT, labels=LABELS), {}, shoal.settings, time.time())
    client.lpush(wire.result_record(job.id), "in the way")
    client.lpush(wire.QUEUE, wire.message(job))
    eventually(lambda: b"delivery_failed" in workers.log(), what="a failed delivery")
    line = next(line for line in map(from_json, workers.log().splitlines()) if line["event"] == "delivery_failed")
    assert (line["job_id"], line["kind"], line["attempt"], line["level"]) == (job.id, "classify", 1, "error")
    [run] = named(collector, "process shoal.classify")
    assert (run["trace"], run["error.type"]) == (line["trace_id"], "ResponseError")
    assert b"quokka" not in workers.log()


def test_a_protocol_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"):
        tracing.configure()
    assert not tracing.is_on()


def test_a_worker_without_an_endpoint_wraps_nothing() -> None:
    tracing.configure()
    assert not tracing.is_on()
    nothing: Any = None
    model: Any = object()
    runner = runner_for("w", nothing, model, Limits("m", 1.0, 2.0), nothing)
    assert tracing.traced_runner(runner) is runner
    assert tracing.traced_model(model, "https://openrouter.ai/api/v1") is model


def test_a_backend_without_opentelemetry_enqueues_as_ever(valkey: str) -> None:
    code = """\
import sys
sys.modules["opentelemetry"] = None
from shoal import Classify, Shoal
with Shoal() as shoal:
    print(shoal.enqueue(Classify(text="t", labels=("a", "b"))).status())
"""
    environ = {**os.environ, "SHOAL_REDIS_URL": valkey}
    ended = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert ended.stdout == "available\n"
