"""What Sentry and an OpenTelemetry collector receive: one small HTTP server that keeps what is posted to it."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SENTRY_KEY = "dsnkey4d1f"


@dataclass
class Receiver:
    """Bodies by path, unpacked."""

    port: int
    posts: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        return f"http://{SENTRY_KEY}@127.0.0.1:{self.port}/7"

    def everything(self) -> bytes:
        """All that came, to be searched."""
        return b"\n".join(body for _, body in self.posts)

    def items(self, kind: str) -> list[dict[str, Any]]:
        """Items of Sentry's envelopes: `event`, `check_in`, `transaction`."""
        bodies = [body for path, body in self.posts if path == "/api/7/envelope/"]
        return [item for body in bodies for found, item in _items(body) if found == kind]

    def events(self) -> list[dict[str, Any]]:
        return self.items("event")

    def spans(self) -> list[dict[str, Any]]:
        """OpenTelemetry's spans, in their order of arrival."""
        return [span for path, body in self.posts if path == "/v1/traces" for span in _spans(body)]


def _items(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    _, _, rest = body.partition(b"\n")
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        length = header.get("length", rest.find(b"\n"))
        yield header["type"], json.loads(rest[:length])
        rest = rest[length:].removeprefix(b"\n")


def _spans(body: bytes) -> Iterator[dict[str, Any]]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "name": span.name,
                    "service": service,
                    "kind": span.kind,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "failed": span.status.code == span.status.STATUS_CODE_ERROR,
                    **_attributes(span.attributes),
                }


def _attributes(pairs: Any) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        which = pair.value.WhichOneof("value")
        value = getattr(pair.value, which)
        found[pair.key] = [one.string_value for one in value.values] if which == "array_value" else value
    return found


@contextmanager
def receiver() -> Iterator[Receiver]:
    kept: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.append((self.path, gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Receiver(server.server_port, kept)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
