"""serve: what people may call, as an OpenAPI description made from the pipeline file's types, and as a page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any, get_type_hints

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from penstock.record.event import Event
from penstock.serve.answers import Endpoint, json_of
from penstock.serve.desk import Desk, ModelFace
from penstock.serve.infer import datatype

_EXAMPLES: dict[type, Any] = {bool: True, int: 3, float: 0.5, str: "a", datetime: "2026-01-31T12:00:00Z"}
_JSON, _TEXT = "application/json", "text/plain"
ERROR = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
}
ANSWER = {
    "type": "object",
    "required": ["score", "positive", "version", "request_id", "prediction_id"],
    "properties": {
        "score": {"type": ["number", "null"], "description": "the probability of a true label, or the value"},
        "positive": {"type": ["boolean", "null"], "description": "whether the score reaches the threshold"},
        "version": {"type": "integer"},
        "request_id": {"type": "string"},
        "prediction_id": {"type": "string", "description": "`penstock trace` tells all about it"},
        "error": {"type": "string"},
    },
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
        "datatype": {"type": "string", "enum": ["BOOL", "INT64", "FP32", "FP64", "BYTES"]},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
}
_OUTPUT = {**_TENSOR, "required": ["name", "shape", "datatype"]}


def telling(desk: Desk) -> Endpoint:
    """`GET /openapi.json`."""

    async def tell(request: Request) -> Response:
        return json_of(described(desk.faces))

    return tell


def described(faces: Mapping[str, ModelFace]) -> dict[str, Any]:
    """The description, version 3.1."""
    paths: dict[str, Any] = {
        "/v2/health/live": {"get": _get("Whether the server is alive", {"type": "object"}, [503])},
        "/v2/health/ready": {"get": _get("Whether it takes requests", {"type": "object"}, [503])},
        "/v2": {"get": _get("The server", {"type": "object"}, [])},
        "/status": {"get": _get("How things stand", {"type": "object"}, [])},
    }
    schemas: dict[str, Any] = {"Error": ERROR, "Answer": ANSWER}
    for name, face in faces.items():
        schemas[f"{name}.Request"] = row_of(face)
        paths |= _of_model(name, face)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": version("penstock"),
            "description": "Every answer is on the log before it leaves.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def row_of(face: ModelFace) -> dict[str, Any]:
    """A request's columns as a schema; those that are filled in where they are missing are not required."""
    source = face.request
    (made,), parts = msgspec.json.schema_components([source.schema], ref_template="{name}")
    schema = dict(parts[made["$ref"]])
    filled = {source.id, source.time}
    schema["required"] = [one for one in schema.get("required", []) if one not in filled]
    schema["examples"] = [example_of(source.schema, filled)]
    schema.pop("title", None)
    return schema


def example_of(schema: type[Event], without: set[str]) -> dict[str, Any]:
    """A row as it may be asked."""
    hints = get_type_hints(schema)
    return {name: _example(hints[name]) for name in schema.__struct_fields__ if name not in without}


def _example(hint: Any) -> Any:
    for kind in (hint, *getattr(hint, "__args__", ())):
        if kind in _EXAMPLES:
            return _EXAMPLES[kind]
    return None


def _of_model(name: str, face: ModelFace) -> dict[str, Any]:
    ref, answer = {"$ref": f"#/components/schemas/{name}.Request"}, {"$ref": "#/components/schemas/Answer"}
    example = row_of(face)["examples"][0]
    tensors = [
        {"name": column, "shape": [1], "datatype": datatype(face.request, column), "data": [value]}
        for column, value in example.items()
    ]
    numbers = _list({"type": ["number", "null"]}, 0)
    infer = _object({"id": {"type": "string"}, "inputs": _list(_TENSOR)}, "inputs")
    outputs = _object({"model_name": {"type": "string"}, "outputs": _list(_OUTPUT)})
    either, answers = {"anyOf": [ref, _list(ref)]}, {"anyOf": [answer, _list(answer)]}
    asks = {
        f"/models/{name}": _post(f"Ask {name}: one row, or a list", either, example, answers),
        f"/v2/models/{name}/infer": _post(
            f"Ask {name} by the Open Inference Protocol", infer, {"inputs": tensors}, outputs
        ),
        f"/v1/models/{name}:predict": _post(
            f"Ask {name} as TensorFlow Serving is asked", _object({"instances": _list(ref)}, "instances"),
            {"instances": [example]}, _object({"predictions": numbers}),
        ),
        f"/models/{name}/invocations": _post(
            f"Ask {name} as MLflow's server is asked", _object({"dataframe_records": _list(ref)}, "dataframe_records"),
            {"dataframe_records": [example]}, _object({"predictions": numbers}),
        ),
    }  # fmt: skip
    tells = {
        f"/v2/models/{name}": _get(f"What {name} takes and says", _object({}), []),
        f"/v2/models/{name}/ready": _get(f"Whether {name} answers", _object({}), [503]),
    }
    if not face.asked:
        read = _object({"answers": _list(_object({}), 0), "after": {"type": "integer"}})
        what = f"What {name} answered: ?after=PLACE&wait-ms=5000"
        asks, tells = {}, tells | {f"/models/{name}/answers": _get(what, read, [400, 422])}
    return {path: {"post": one} for path, one in asks.items()} | {
        path: {"get": one} for path, one in tells.items()
    }


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    return made | ({"required": list(required)} if required else {})


def _list(items: Mapping[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": dict(items), "minItems": least}


def _get(summary: str, schema: Mapping[str, Any], others: list[int]) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(schema, others)}


def _post(summary: str, asked: Mapping[str, Any], example: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {_JSON: {"schema": asked, "example": example}}},
        "responses": _responses(schema, [400, 404, 413, 415, 422, 429, 503, 504, 507]),
    }


def _responses(schema: Mapping[str, Any], others: list[int]) -> dict[str, Any]:
    good = {"description": "The answer", "content": {_JSON: {"schema": schema}}}
    error = {"description": "Why not", "content": {_JSON: {"schema": {"type": "object"}}}}
    return {"200": good} | {str(status): error for status in others}


def showing(desk: Desk) -> Endpoint:
    """`GET /docs`: the description for people."""

    async def show(request: Request) -> Response:
        page = page_of(described(desk.faces))
        policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
        return Response(page, media_type="text/html", headers={"content-security-policy": policy})

    return show


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}"
    "h2{font-size:1.05rem;margin:2rem 0 .3rem}code,pre{font:14px/1.5 ui-monospace,monospace}"
    "pre{background:#f4f5f7;padding:.8rem;overflow:auto;border-radius:6px}b{display:inline-block;min-width:3.5rem}"
)


def page_of(told: Mapping[str, Any]) -> str:
    """The description as a page without a script."""
    parts = []
    for path, methods in told["paths"].items():
        for method, one in methods.items():
            parts.append(
                f"<h2><b>{method.upper()}</b> <code>{html.escape(path)}</code></h2><p>{html.escape(one['summary'])}</p>"
            )
            content = one.get("requestBody", {}).get("content", {}).get(_JSON)
            if content is not None:
                body = json.dumps(content["example"])
                call = f"curl -s localhost:8411{path} -H 'content-type: application/json' -d '{body}'"
                parts.append(f"<pre>{html.escape(call)}</pre>")
    title = html.escape(told["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: what may be called</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p>What may be called. For machines: "
        f'<a href="/openapi.json">openapi.json</a>.</p>{"".join(parts)}</body></html>'
    )
