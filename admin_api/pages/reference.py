"""The reference of the API, rendered from its OpenAPI document: without scripts, and without another server."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from shlex import quote
from typing import Any

from fastapi import Request, Response

from admin_api.examples import example_of
from admin_api.pages.html import render
from admin_api.pages.routing import router

routes = router()
_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Member:
    """A parameter, or a member of a body, in the words of a reader."""

    name: str
    kind: str
    is_required: bool
    description: str


@dataclass(frozen=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    summary: str
    description: str
    operation_id: str
    parameters: tuple[Member, ...]
    body: tuple[Member, ...]
    responses: tuple[tuple[str, str], ...]
    curl: str
    answer: str
    """An example of a successful answer as JSON; empty without one."""


@routes.get("/docs")
async def show_reference(request: Request) -> Response:
    document = request.app.openapi()
    groups: dict[str, list[Endpoint]] = {}
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                found = methods[method]
                groups.setdefault((found.get("tags") or ["other"])[0], []).append(
                    _endpoint(method, path, found, document)
                )
    origin = f"{request.url.scheme}://{request.url.netloc}"
    return render(request, "docs.html", {"groups": groups, "origin": origin, "count": sum(map(len, groups.values()))})


def _endpoint(method: str, path: str, found: Mapping[str, Any], document: Mapping[str, Any]) -> Endpoint:
    body = found.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    schema = _resolved(body, document)
    if "anyOf" in schema:
        schema = next((one for each in schema["anyOf"] if (one := _resolved(each, document)).get("properties")), {})
    required = set(schema.get("required", ()))
    return Endpoint(
        method=method.upper(),
        path=path,
        summary=found.get("summary", ""),
        description=found.get("description", ""),
        operation_id=found.get("operationId", ""),
        parameters=tuple(
            Member(
                one["name"],
                f"{_kind(one.get('schema', {}), document)}, {one['in']}",
                bool(one.get("required")),
                one.get("description", ""),
            )
            for one in found.get("parameters", ())
        ),
        body=tuple(
            Member(name, _kind(one, document), name in required, one.get("description", ""))
            for name, one in schema.get("properties", {}).items()
        ),
        responses=tuple((code, one.get("description") or _phrase(code)) for code, one in found["responses"].items()),
        curl=_curl(method, path, found, schema, document),
        answer=_answer(found, document),
    )


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    if not reference:
        return schema
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}


def _kind(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    schema = _resolved(schema, document)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one, document) for one in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}), document)}"
    return schema.get("format", kind) if kind == "string" else kind


def _phrase(code: str) -> str:
    return HTTPStatus(int(code)).phrase if code.isdecimal() else ""


def _answer(found: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    for status, response in found["responses"].items():
        content = response.get("content", {}).get("application/json")
        if status.startswith("2") and content and (example := example_of(content, document)) is not None:
            return json.dumps(example, indent=2, ensure_ascii=False)
    return ""


def _curl(
    method: str, path: str, found: Mapping[str, Any], schema: Mapping[str, Any], document: Mapping[str, Any]
) -> str:
    shown = path
    for one in found.get("parameters", ()):
        if one["in"] == "path":
            shown = shown.replace(f"{{{one['name']}}}", "1")
    needed = [one["name"] for one in found.get("parameters", ()) if one["in"] == "query" and one.get("required")]
    query = "&".join(f"{name}=VALUE" for name in needed)
    url = f"$API{shown}" + (f"?{query}" if query else "")
    lines = [f'curl -H "Authorization: Bearer $TOKEN" "{url}"']
    if method != "get":
        lines = [f'curl -X {method.upper()} -H "Authorization: Bearer $TOKEN"']
        example = _example(schema, document)
        if found.get("requestBody"):
            lines[0] += " -H 'Content-Type: application/json'"
            lines.append(f"  -d {quote(json.dumps(example, ensure_ascii=False))}")
        lines.append(f'  "{url}"')
    return " \\\n".join(lines)


def _example(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    if schema.get("examples"):
        return schema["examples"][0]
    required = set(schema.get("required", ()))
    return {
        name: _value(_resolved(one, document), document)
        for name, one in schema.get("properties", {}).items()
        if name in required
    }


def _value(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "anyOf" in schema:
        return _value(_resolved(schema["anyOf"][0], document), document)
    values: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True, "array": []}
    return values.get(str(schema.get("type")), "…")
