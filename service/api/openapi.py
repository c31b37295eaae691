"""The OpenAPI 3.1 document: operations.py's table, with schemas of the types that validate requests, and of answers.

A text/event-stream is described as the sequence of its events (as OpenAPI 3.2 does): each has the text of its `data`
and, but for the default one, the name in `event`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Literal

from msgspec import NODEFAULT
from msgspec.structs import fields
from pydantic import TypeAdapter

from service.api.aliases import ALIASES
from service.api.answers import Failure
from service.api.catalogue import refused_by
from service.api.operations import EVENTS, JSON, OPERATIONS, SSE, Answer, Event, Operation
from service.errors import Invalid, Refused, RillError, Unauthorized
from service.protocol.sampling import Sampling

Schema = dict[str, Any]
ABOUT = (
    "Streams the answers of a language model over Server-Sent Events. A stream survives the death of its connection, "
    "and is resumed after any event. Unknown fields are ignored; null means the default."
)
# Pydantic writes bounds of a type with a validator by its own names.
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
HEADERS = {
    "Last-Event-ID": "The last event that the client has: its stream continues there, in its own format.",
    "Idempotency-Key": "Names the request: a retry attaches to its stream.",
    "X-Resumable": "With `1` the client may resume, so its stream runs on without it.",
}
STREAM_ID = {"X-Stream-Id": {"schema": {"type": "string"}, "description": "The stream's id, which grants reading it."}}


@cache
def document(version: str) -> Schema:
    """The whole document, of plain values."""
    schemas = _schemas()
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        for path in _names(operation.path):
            paths.setdefault(path, {})[operation.method] = _operation(operation, path, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rill", "version": version, "description": ABOUT, "license": {"name": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": schemas | {name: _events(events) for name, events in EVENTS.items()},
            "responses": {_named(status): _refusal(status) for status in sorted(_codes())},
            "parameters": {name: _header(name, about) for name, about in HEADERS.items()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _names(path: str) -> Iterator[str]:
    """A route's path, and its other names."""
    yield path
    for alias, other in ALIASES.items():
        if _plain(other) == path:
            yield _plain(alias)


def _plain(path: str) -> str:
    """aiohttp's template without the patterns of its variables."""
    return re.sub(r":[^}]+", "", path)


def _operation(operation: Operation, path: str, schemas: dict[str, Schema]) -> Schema:
    name = re.sub(r"\W+", "_", f"{operation.method}_{path}").strip("_")
    found: Schema = {"operationId": name, "tags": [operation.tag], "summary": operation.summary}
    if path != operation.path:
        found["description"] = f"Another name of {operation.path}."
    if parameters := list(_parameters(operation, path, schemas)):
        found["parameters"] = parameters
    if operation.body:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(operation.body)}}}
    if operation.needs_key:
        found["security"] = [{}, {"key": []}]
    return found | {"responses": dict(_responses(operation))}


def _parameters(operation: Operation, path: str, schemas: dict[str, Schema]) -> Iterator[Schema]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    if operation.query:
        properties = schemas[operation.query.__name__]["properties"]
        yield from (_in_query(name, schema) for name, schema in properties.items() if name != "messages")
    elif operation.events:
        yield _in_query("pace", schemas["StreamRequest"]["properties"]["pace"])
    if operation.events and operation.method == "get":
        yield _in_query("last_event_id", {"type": "string"})
    yield from ({"$ref": f"#/components/parameters/{name}"} for name in operation.headers)


def _header(name: str, about: str) -> Schema:
    return {"name": name, "in": "header", "description": about, "schema": {"type": "string"}}


def _in_query(name: str, schema: Schema) -> Schema:
    """A field in the query, where there is no null. Objects are JSON."""
    given = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    found = given[0] if len(given) == 1 else {"anyOf": given}
    found = found | ({"default": schema["default"]} if schema.get("default") is not None else {})
    as_json = any(one.get("type") == "object" for one in given)
    return {"name": name, "in": "query"} | ({"content": {JSON: {"schema": found}}} if as_json else {"schema": found})


def _responses(operation: Operation) -> Iterator[tuple[str, Schema]]:
    contents: dict[int, Schema] = {}
    summaries = {answer.status: answer.summary for answer in operation.answers}
    for answer in operation.answers:
        contents.setdefault(answer.status, {}).update(_content(answer))
    if operation.events:
        events = [{"$ref": f"#/components/schemas/{name}"} for name in operation.events]
        contents.setdefault(200, {})[SSE] = {"schema": events[0] if len(events) == 1 else {"anyOf": events}}
    for status, content in sorted(contents.items()):
        described: Schema = {"description": summaries.get(status, "The stream's events.")}
        described |= {"content": content} if content else {}
        yield str(status), described | ({"headers": STREAM_ID} if SSE in content else {})
    for status in sorted({error.status for error in operation.refusals} - set(contents)):
        yield str(status), {"$ref": f"#/components/responses/{_named(status)}"}


def _content(answer: Answer) -> Schema:
    if answer.status == 204:
        return {}
    return {answer.kind: {"schema": {"type": "string"} if answer.body is None else _ref(answer.body)}}


def _refusal(status: int) -> Schema:
    """The response of this status: the error's object, with the codes that errors.py has for it."""
    codes: Schema = {"type": "string", "examples": _codes()[status]}
    if status != Invalid.status:  # the engine has more of these
        codes = {"enum": _codes()[status]}
    error = {"properties": {"error": {"properties": {"code": codes}}}}
    response: Schema = {
        "description": ", ".join(_codes()[status]),
        "content": {JSON: {"schema": {"allOf": [_ref(Failure), error]}}},
    }
    if status in (Refused.status, 429):
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    if status == Unauthorized.status:
        response["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    return response


def _named(status: int) -> str:
    return f"Error{status}"


@cache
def _codes() -> dict[int, list[str]]:
    """The codes of each status, from the tree of errors."""
    found: dict[int, list[str]] = {}
    for error in _tree(RillError):
        if error.code not in found.setdefault(error.status, []):
            found[error.status].append(error.code)
    return found


def _tree(error: type[RillError]) -> Iterator[type[RillError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _tree(kind)


def _events(events: Iterable[Event]) -> Schema:
    return {"type": "array", "items": {"anyOf": [_event(event) for event in events]}}


def _event(event: Event) -> Schema:
    data: Schema = {"const": event.data}
    if not isinstance(event.data, str):
        data = {"type": "string", "contentMediaType": JSON, "contentSchema": _ref(event.data)}
    name: Schema = {"event": {"const": event.name}} if event.name else {}
    return {"type": "object", "properties": name | {"data": data}, "required": [*name, "data"]}


def _ref(kind: Any) -> Schema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"} if isinstance(kind, type) else {"type": "object"}


def _schemas() -> dict[str, Schema]:
    """The schemas of all types that operations use, by name; requests have llama.cpp's defaults."""
    requests = {kind for o in OPERATIONS for kind in (o.query, o.body) if kind}
    found = {answer.body for o in OPERATIONS for answer in o.answers} | {e.data for es in EVENTS.values() for e in es}
    kinds = [kind for kind in requests | found if isinstance(kind, type)]
    inputs: list[tuple[str, Literal["validation"], TypeAdapter[Any]]]
    inputs = [(kind.__name__, "validation", TypeAdapter(kind)) for kind in kinds]
    _, made = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    schemas: dict[str, Schema] = {name: _tidied(schema) for name, schema in sorted(made["$defs"].items())}
    for kind in requests:
        _add_defaults(schemas[kind.__name__]["properties"])
        schemas[kind.__name__]["x-refused"] = refused_by(kind)
    return schemas


def _add_defaults(properties: Schema) -> None:
    for field in fields(Sampling):
        if field.name in properties and field.default is not NODEFAULT:
            default = field.default
            properties[field.name]["default"] = list(default) if isinstance(default, tuple) else default


def _tidied(schema: Any) -> Any:
    """Without titles, which repeat the names, and with JSON Schema's names of bounds."""
    if isinstance(schema, list):
        return [_tidied(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {BOUNDS.get(key, key): _tidied(one) for key, one in schema.items() if key not in ("title", "properties")}
    if properties := schema.get("properties"):  # whose names are no keywords
        found["properties"] = {name: _tidied(one) for name, one in properties.items()}
    return found
