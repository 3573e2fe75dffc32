"""What OpenRouter and the provider behind it refuse with a 400, checked before anything else happens."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from shoal_worker.sandbox.catalogue import PROVIDER, SLUGS
from shoal_worker.sandbox.metering import byte_length
from shoal_worker.sandbox.replies import Refused, error

_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SYSTEM_ROLES = frozenset({"system", "developer"})
_ROLES = _SYSTEM_ROLES | {"user", "assistant", "tool"}
_PAIRS_MAX, _KEY_MAX, _VALUE_MAX = 16, 64, 512


@dataclass(frozen=True, slots=True)
class Ask:
    """A valid request, reduced to what an answer depends on."""

    system: str
    user: str
    #: The first system message alone: the prefix that the provider's cache knows.
    prefix: str
    prompt_bytes: int
    custom_id: str | None
    schema_name: str | None
    schema_json: bytes | None
    max_completion_tokens: int | None


def read_ask(body: bytes) -> Ask:
    """The request in `body`; raises Refused with the 400 it deserves."""
    request = _decoded(body)
    if not isinstance(request, dict):
        raise _bad("Request body must be a JSON object")
    if request.get("stream"):
        raise _bad("The sandbox does not stream: send stream=false or leave it out")
    _check_model(request)
    texts = _read_messages(request.get("messages"))
    schema_name, schema_json = _read_schema(request.get("response_format"))
    return Ask(
        system="\n".join(text for role, text in texts if role in _SYSTEM_ROLES),
        user="\n".join(text for role, text in texts if role == "user"),
        prefix=next((text for role, text in texts if role in _SYSTEM_ROLES), ""),
        prompt_bytes=sum(byte_length(text) for _, text in texts),
        custom_id=_read_custom_id(request.get("metadata")),
        schema_name=schema_name,
        schema_json=schema_json,
        max_completion_tokens=_read_limit(request),
    )


def _decoded(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        pass
    try:
        # JSON can spell half a surrogate pair, which the fast parser refuses and OpenRouter does not.
        return from_json(json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise _bad("Request body is not valid JSON") from None


def _bad(message: str) -> Refused:
    return Refused(error(400, message))


def _upstream(message: str) -> Refused:
    """A complaint of the provider's: OpenRouter hides it in the metadata."""
    return Refused(error(400, "Provider returned error", {"raw": message, "provider_name": PROVIDER}))


def _check_model(request: dict[str, Any]) -> None:
    fallbacks = request.get("models") or []
    asked = [request["model"]] if request.get("model") else []
    asked += fallbacks if isinstance(fallbacks, list) else []
    if not asked:
        raise _bad("No models provided")
    if not any(isinstance(slug, str) and slug in SLUGS for slug in asked):
        raise _bad(f"{str(asked[0])[:100]} is not a valid model ID")


def _read_messages(messages: Any) -> list[tuple[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise _bad("Input required: specify 'messages'")
    texts: list[tuple[str, str]] = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _bad(f"messages.{place}: not a message with a known role")
        texts.append((message["role"], _content(message, place)))
    return texts


def _content(message: dict[str, Any], place: int) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message["role"] == "assistant":
        return ""
    if not isinstance(content, list):
        raise _bad(f"messages.{place}.content: neither a string nor a list of parts")
    parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(part for part in parts if isinstance(part, str))


def _read_custom_id(metadata: Any) -> str | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or len(metadata) > _PAIRS_MAX:
        raise _bad(f"metadata: not an object of at most {_PAIRS_MAX} pairs")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(value) > _VALUE_MAX or len(key) > _KEY_MAX:
            raise _bad(f"metadata: keys have at most {_KEY_MAX} characters, values are strings of at most {_VALUE_MAX}")
    return metadata.get("custom_id")


def _read_limit(request: dict[str, Any]) -> int | None:
    limit = request.get("max_completion_tokens", request.get("max_tokens"))
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise _bad("max_completion_tokens: not a positive integer")
    return limit


def _read_schema(response_format: Any) -> tuple[str | None, bytes | None]:
    if response_format is None:
        return None, None
    if not isinstance(response_format, dict):
        raise _bad("response_format: not an object")
    if response_format.get("type") != "json_schema":
        return None, None
    declared = response_format.get("json_schema")
    if not isinstance(declared, dict):
        raise _bad("response_format.json_schema: not an object")
    name, schema = declared.get("name"), declared.get("schema")
    if not isinstance(name, str) or not _SCHEMA_NAME.fullmatch(name):
        raise _bad("response_format.json_schema.name: 1 to 64 characters of a-z, A-Z, 0-9, _ and - are needed")
    if not isinstance(schema, dict):
        raise _bad("response_format.json_schema.schema: not an object")
    schema_json = to_json(schema)
    fault = _strict_fault(schema_json) if declared.get("strict") else None
    if fault is not None:
        raise _upstream(f"Invalid schema for response_format '{name}': {fault}")
    return name, schema_json


@lru_cache(maxsize=1024)
def _strict_fault(schema_json: bytes) -> str | None:
    """Why strict mode refuses this schema, or None. Remembered: most requests repeat a schema."""
    schema = from_json(schema_json)
    if schema.get("type") != "object":
        return "schema must be a JSON Schema of 'type: \"object\"'."
    return _object_fault(schema, ())


def _object_fault(schema: Any, context: tuple[str, ...]) -> str | None:
    """The first object under `schema` that is open or has a property that is not required."""
    if not isinstance(schema, dict):
        return None
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        if schema.get("additionalProperties") is not False:
            return f"In context={context}, 'additionalProperties' is required to be supplied and to be false."
        missing = sorted(set(properties or {}) - set(schema.get("required") or ()))
        if missing:
            return (
                f"In context={context}, 'required' is required to be supplied and to be an array including "
                f"every key in properties. Missing '{missing[0]}'."
            )
    for path, part in _parts(schema):
        fault = _object_fault(part, (*context, *path))
        if fault is not None:
            return fault
    return None


def _parts(schema: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """The schemas directly inside a schema, with the way to each."""
    parts: list[tuple[tuple[str, ...], Any]] = []
    for keyword in ("properties", "$defs", "definitions"):
        inside = schema.get(keyword)
        if isinstance(inside, dict):
            parts += [((keyword, name), part) for name, part in inside.items()]
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        inside = schema.get(keyword)
        if isinstance(inside, list):
            parts += [((keyword, str(place)), part) for place, part in enumerate(inside)]
    if isinstance(schema.get("items"), dict):
        parts.append((("items",), schema["items"]))
    return parts
