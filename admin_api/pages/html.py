"""Rendering of pages: the templates, what all of them need, and the headers that protect them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from admin_api.configuration import ConfigurationError
from admin_api.identity import Identity, identity_of
from admin_api.pages import cells
from admin_api.pages.actions import action_of
from admin_api.pages.assets import url_of
from admin_api.sessions import CSRF_FIELD, session_of
from citus_cluster import __version__
from citus_cluster.model.token_role import Role
from citus_cluster.model.units import count, size

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Pages hold the secrets of forms, and data of the cluster.
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Place:
    """An entry of the navigation."""

    title: str
    path: str


@cache
def environment() -> jinja2.Environment:
    """Return the environment of the pages, which escapes everything by default."""
    folder = files("admin_api.pages") / "templates"
    templates = {one.name: one.read_text(encoding="utf-8") for one in folder.iterdir() if one.name.endswith(".html")}
    made = jinja2.Environment(
        loader=jinja2.DictLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "bytes": cells.bytes_,
        "size": size,
        "count": count,
        "seconds": cells.seconds,
        "when": cells.when,
        "title_of": cells.title,
        "badge": cells.badge,
        "tone": cells.tone,
        "compact_json": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    }
    made.tests["command"] = cells.is_command
    made.globals |= {
        "asset": url_of,
        "cell": cells.cell,
        "cell_class": cells.cell_class,
        "is_bytes": cells.is_bytes,
        "took": took,
        "has_bars": has_bars,
        "version": __version__,
        "csrf_field": CSRF_FIELD,
    }
    return made


def render(
    request: Request,
    template: str,
    context: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Render a page for whoever is logged in."""
    identity = identity_of(request.scope)
    session = session_of(request.scope)
    places: tuple[Place, ...] = request.app.state.places if identity else ()
    changes = request.app.state.changes if may_change(identity) else {}
    shared = {
        "identity": identity,
        "offer": lambda text: action_of(changes, text),
        "may_change": may_change(identity),
        "csrf": session.csrf if session else "",
        "has_session": session is not None,
        "places": places,
        "path": request.url.path,
        "cluster_name": _cluster_name(request),
    }
    text = environment().get_template(template).render({**shared, **context})
    return HTMLResponse(text, status, headers=HEADERS | dict(headers or {}))


def has_bars(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether rows are figures of nodes before and after a change, which are drawn as bars."""
    return {"node", "bytes_before", "bytes_after"} <= rows[0].keys()


def took(operation: Mapping[str, Any]) -> str:
    """Return how long an operation took, or has been running."""
    began = datetime.fromisoformat(operation["created_at"])
    ended = operation["ended_at"]
    return cells.seconds(((datetime.fromisoformat(ended) if ended else datetime.now(UTC)) - began).total_seconds())


def may_change(identity: Identity | None) -> bool:
    return identity is not None and identity.role is Role.ADMIN


def _cluster_name(request: Request) -> str:
    if identity_of(request.scope) is None:
        return ""
    try:
        return str(request.app.state.configuration.cluster().cluster)
    except ConfigurationError:
        return ""
