"""The page at /docs: the OpenAPI document as HTML. Pure. Its style is in web/reference.css; it needs no script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import orjson

Schema = dict[str, Any]
PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Rill: the API</title>
  <meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
  <meta name="color-scheme" content="light dark">
  <link rel="icon" href="web/favicon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="web/style.css">
  <link rel="stylesheet" href="web/reference.css">
</head>
<body class="reference">
<main>
{main}
</main>
</body>
</html>
"""
# Pairs of JSON Schema's bounds, and their unit.
RANGES = [
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " items"),
]
BOUNDS = {"exclusiveMinimum": "> {}", "exclusiveMaximum": "< {}", "pattern": "pattern {}"}


def page(document: Schema) -> str:
    """The whole page."""
    return PAGE.replace("{main}", "\n".join(_main(document)))


def _main(document: Schema) -> Iterator[str]:
    info, schemas = document["info"], document["components"]["schemas"]
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
    yield f'<p>{escape(info["description"])} As a file: <a href="openapi.json">openapi.json</a>.</p>'
    yield from _contents(document)
    yield "<h2>Routes</h2>"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield from _operation(path, method, operation, document)
    yield "<h2>Errors</h2>"
    errors = document["components"]["responses"].items()
    yield from _table("status", "code", [(name[-3:], _p(error["description"])) for name, error in errors])
    yield "<h2>Types</h2>"
    for name, schema in schemas.items():
        yield from _schema(name, schema)


def _contents(document: Schema) -> Iterator[str]:
    yield '<nav aria-label="Routes"><ul>'
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f'<li><a href="#{operation["operationId"]}"><b>{method.upper()}</b> {escape(path)}</a></li>'
    yield "</ul></nav>"


def _operation(path: str, method: str, operation: Schema, document: Schema) -> Iterator[str]:
    yield f'<section id="{operation["operationId"]}">'
    yield f"<h3><b>{method.upper()}</b> <code>{escape(path)}</code></h3>"
    needs_key = " It needs an API key, where there are any." if "security" in operation else ""
    yield _p(f"{operation['summary']}. {operation.get('description', '')}{needs_key}")
    if body := operation.get("requestBody"):
        yield f"<p>Body: {_content(body['content'])}</p>"
    if parameters := [_resolved(one, document) for one in operation.get("parameters", ())]:
        yield from _table("parameter", "type", [(one["name"], _parameter(one)) for one in parameters])
    responses = [(status, _response(one)) for status, one in operation["responses"].items() if "$ref" not in one]
    yield from _table("status", "response", responses)
    if errors := [status for status, one in operation["responses"].items() if "$ref" in one]:
        yield _p(f"Errors: {', '.join(errors)}.")
    yield "</section>"


def _parameter(parameter: Schema) -> str:
    schema = _schema_of(parameter)
    return f"{parameter['in']}: {_type(schema)}{_default(schema)}"


def _response(response: Schema) -> str:
    content = _content(response["content"]) if "content" in response else ""
    return f"{_p(response['description'])} {content}"


def _content(content: Schema) -> str:
    return "; ".join(f"{escape(kind)}: {_type(one['schema'])}" for kind, one in content.items())


def _schema(name: str, schema: Schema) -> Iterator[str]:
    yield f'<section id="{escape(name)}"><h3><code>{escape(name)}</code></h3>'
    if about := schema.get("description"):
        yield _p(about)
    if items := schema.get("items"):
        rows = [(_event_name(one), _type(_data(one))) for one in items["anyOf"]]
        yield from _table("event", "data", rows)
    else:
        needed = schema.get("required", ())
        rows = [
            (field, f"{_type(one)}{', required' if field in needed else ''}{_default(one)}")
            for field, one in schema.get("properties", {}).items()
        ]
        yield from _table("field", "type", rows)
    if refused := schema.get("x-refused"):
        yield _p(f"Refused by name, unless the value is a default: {', '.join(refused)}.")
    yield "</section>"


def _event_name(event: Schema) -> str:
    return str(event["properties"].get("event", {}).get("const", "(default)"))


def _data(event: Schema) -> Schema:
    data: Schema = event["properties"]["data"]
    found: Schema = data.get("contentSchema", data)
    return found


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    """The first of each row is text, the second HTML."""
    yield f"<table><thead><tr><th>{left}</th><th>{right}</th></tr></thead><tbody>"
    yield from (f"<tr><td><code>{escape(name)}</code></td><td>{said}</td></tr>" for name, said in rows)
    yield "</tbody></table>"


def _type(schema: Schema) -> str:
    """A schema as HTML, in one line; named types are links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if several := schema.get("anyOf") or schema.get("allOf"):
        return " or ".join(_type(one) for one in several)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(_json(value))}</code>" for value in values)
    return ", ".join([_kind(schema), *map(escape, _bounds(schema))])


def _bounds(schema: Schema) -> Iterator[str]:
    for low, high, unit in RANGES:
        least, most = schema.get(low), schema.get(high)
        if most is not None:
            yield f"{most}{unit}" if least == most else f"{0 if least is None and unit else least} to {most}{unit}"
        elif least is not None:
            yield f"at least {least}{unit}"
    yield from (said.format(schema[name]) for name, said in BOUNDS.items() if name in schema)


def _kind(schema: Schema) -> str:
    kind = escape(str(schema.get("type", "anything")))
    if "items" in schema:
        return f"{kind} of ({_type(schema['items'])})"
    if parts := schema.get("prefixItems"):
        return f"{kind} of ({'; '.join(_type(one) for one in parts)})"
    values = schema.get("additionalProperties")
    return f"{kind} of ({_type(values)})" if isinstance(values, dict) else kind


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return "" if default is None else f", default <code>{escape(_json(default))}</code>"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _resolved(parameter: Schema, document: Schema) -> Schema:
    if "$ref" not in parameter:
        return parameter
    found: Schema = document["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
    return found


def _schema_of(parameter: Schema) -> Schema:
    if "schema" in parameter:
        found: Schema = parameter["schema"]
        return found
    (content,) = parameter["content"].values()
    schema: Schema = content["schema"]
    return schema


def _p(text: str) -> str:
    return f"<p>{escape(text.strip())}</p>"
