"""The answer to ``GET /health``, the same for every example."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from service_kit.problems import RETRY_AFTER_S


class Health(BaseModel):
    """How a service is. ``down`` is answered with status 503; ``degraded`` serves, but not all of it.

    ``reason`` says why it is not ok. Each of ``parts`` has a ``status`` (also ``off``), and may have a ``detail`` and
    figures.
    """

    status: Literal["ok", "degraded", "down"]
    reason: str | None
    parts: Mapping[str, Mapping[str, Any]]


def answer(parts: Mapping[str, Mapping[str, Any]], needed: Collection[str]) -> JSONResponse:
    """Answer for these parts: down if a ``needed`` one is down, degraded if any other one is not ok."""
    wrong = {name: part for name, part in parts.items() if part["status"] not in {"ok", "off"}}
    down = any(part["status"] == "down" and name in needed for name, part in wrong.items())
    reason = "; ".join(f"{name}: {part.get('detail', part['status'])}" for name, part in wrong.items())
    health = Health(status="down" if down else "degraded" if wrong else "ok", reason=reason or None, parts=parts)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if down else {}
    return JSONResponse(health.model_dump(), 503 if down else 200, headers)
