"""The API's JSON responses."""

from collections.abc import Mapping
from hashlib import blake2b
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from citus_cluster.model.visible import json_text


class VisibleJSONResponse(JSONResponse):
    """JSON with control and format characters escaped: names come from servers, and curl prints to terminals."""

    def render(self, content: Any) -> bytes:
        return json_text(content, compact=True).encode()


def tag_of(text: str) -> str:
    """Return the entity tag of JSON; it is weak, because the time at which it was read may be added to it."""
    return f'W/"{blake2b(text.encode(), digest_size=12).hexdigest()}"'


def tagged(request: Request, body: bytes, tag: str, more: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON and its entity tag, and only with 304 if the client has it. ``more`` are further headers."""
    headers = {"ETag": tag, "Cache-Control": "no-cache", **(more or {})}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def tagged_json(request: Request, content: Any) -> Response:
    """Answer with data as JSON, like :func:`tagged`."""
    text = json_text(content, compact=True)
    return tagged(request, text.encode(), tag_of(text))
