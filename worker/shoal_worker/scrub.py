"""What may go to Sentry, and how often: events are built anew out of what is known to be safe. Pure.

Sentry's own scrubbing takes away what looks private; a customer's text looks like nothing in particular. So nothing
goes out but what is listed here: ids, words of ours, sizes, times, and the path through the code. Never an exception's
message, a frame's variables, a log line's parameters, breadcrumbs, a request, an environment or a command line.
"""

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

_KEPT = frozenset(
    "event_id timestamp start_timestamp platform type level logger release environment server_name sdk transaction"
    " transaction_info fingerprint tags message"
    " monitor_slug check_in_id status duration monitor_config".split()
)
_FRAME = frozenset("filename abs_path module function lineno in_app pre_context context_line post_context".split())
_SPAN = frozenset(
    "trace_id span_id parent_span_id same_process_as_parent op origin status timestamp start_timestamp".split()
)
_SPAN_DATA = ("messaging.", "sentry.op", "sentry.origin")
#: What we say of a job, a queue and of events that were held back; the rest of the contexts is other people's.
_CONTEXTS = frozenset({"job", "queue", "runtime", "storm"})

_MOST_FINGERPRINTS = 1_000
#: Sentry drops longer ones.
_TAG_CHARS = 200


def scrubbed(event: Mapping[str, Any]) -> Event:
    """An event, a check-in or a transaction with nothing in it but what is listed above."""
    kept = _only(event, _KEPT)
    contexts = event.get("contexts") or {}
    kept["contexts"] = {name: contexts[name] for name in contexts if name in _CONTEXTS}
    if "trace" in contexts:
        kept["contexts"]["trace"] = _span(contexts["trace"])
    if "exception" in event:
        kept["exception"] = {"values": [_exception(value) for value in event["exception"].get("values") or ()]}
    if "spans" in event:
        kept["spans"] = [_span(span) for span in event["spans"]]
    return kept


def subject(record: logging.LogRecord) -> str:
    """What a log line is about, without what was put into it: our event's name, or the template, or the place."""
    if isinstance(record.msg, dict):
        return str(record.msg.get("event"))
    is_constant = record.args or record.name.startswith("shoal")
    if not is_constant:
        return f"{record.name}, {record.module}:{record.lineno}"
    # It becomes a tag, which is one line.
    return " ".join(str(record.msg).split())[:_TAG_CHARS]


def fingerprint(event: Event, about: str) -> list[str]:
    """Equal for the same crash: what it was about, the exception's type, and the last call in our own code."""
    values = event.get("exception", {}).get("values") or []
    if not values:
        return ["log", about]
    frames = (values[-1].get("stacktrace") or {}).get("frames") or []
    ours = [frame.get("function") for frame in frames if frame.get("in_app")]
    return ["crash", about, str(values[-1].get("type")), str(ours[-1] if ours else "")]


def _exception(value: Mapping[str, Any]) -> Event:
    frames = (value.get("stacktrace") or {}).get("frames") or ()
    mechanism = _only(value.get("mechanism") or {}, frozenset({"type", "handled"}))
    return {
        **_only(value, frozenset({"type", "module"})),
        "mechanism": mechanism or {"type": "generic"},
        "stacktrace": {"frames": [_only(frame, _FRAME) for frame in frames]},
    }


def _span(span: Mapping[str, Any]) -> Event:
    data = span.get("data") or {}
    return {**_only(span, _SPAN), "data": {name: data[name] for name in data if name.startswith(_SPAN_DATA)}}


def _only(fields: Mapping[str, Any], names: Iterable[str]) -> Event:
    return {name: fields[name] for name in names if name in fields}


@dataclass(slots=True)
class Storms:
    """Lets so many events of one fingerprint through in a window, and counts the others. For several threads."""

    most: int = 10
    window_seconds: float = 60.0
    _windows: dict[tuple[str, ...], "_Window"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admits(self, fingerprint: Iterable[str], now: float) -> int | None:
        """How many like it were held back since the last that went; None: hold this one back too."""
        with self._lock:
            window = self._window(tuple(fingerprint), now)
            if now - window.began_at >= self.window_seconds:
                window.began_at, window.sent = now, 0
            if window.sent >= self.most:
                window.held_back += 1
                return None
            held_back, window.held_back = window.held_back, 0
            window.sent += 1
            return held_back

    def held_back(self) -> int:
        """How many were held back that no later event has told of."""
        with self._lock:
            return sum(window.held_back for window in self._windows.values())

    def _window(self, fingerprint: tuple[str, ...], now: float) -> "_Window":
        if fingerprint not in self._windows and len(self._windows) >= _MOST_FINGERPRINTS:
            # The oldest makes room: whoever makes up fingerprints must not fill the memory.
            del self._windows[min(self._windows, key=lambda key: self._windows[key].began_at)]
        return self._windows.setdefault(fingerprint, _Window(now))


@dataclass(slots=True)
class _Window:
    began_at: float
    sent: int = 0
    held_back: int = 0
