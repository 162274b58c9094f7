"""How the admin API finds the route of a request."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse
from starlette.routing import Match
from starlette.types import Scope

from admin_api.routing import DirectRoute, add_routes, template_of

tried: list[str] = []


class Noting(DirectRoute):
    """Notes that it was tried."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        tried.append(self.path)
        return super().matches(scope)


def _app(*routes: tuple[str, str]) -> FastAPI:
    router = APIRouter(prefix="/api", route_class=Noting)
    for method, path in routes:

        async def serve(request: Request, said: str = f"{method} {path}") -> Response:
            return PlainTextResponse(f"{said} {dict(request.path_params)} {template_of(request.scope)}")

        router.add_api_route(path, serve, methods=[method])
    app = FastAPI()
    add_routes(app, [router])
    return app


def _ask(app: FastAPI, method: str, path: str) -> tuple[int, str]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "root_path": ""}
    tried.clear()
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:]).decode()


MANY = tuple(("GET", f"/row{number}") for number in range(50))


def test_a_path_without_parameters_is_found_without_a_try_of_the_others() -> None:
    app = _app(*MANY)
    assert _ask(app, "GET", "/api/row49") == (200, "GET /row49 {} /api/row49")
    assert tried == ["/api/row49"]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/api/row", (200, "POST /row {} /api/row")),
        ("GET", "/api/row", (200, "GET /row {} /api/row")),
        ("GET", "/api/row/7", (200, "GET /row/{number} {'number': '7'} /api/row/{number}")),
        ("GET", "/api/row/first", (200, "GET /row/{number} {'number': 'first'} /api/row/{number}")),
        ("DELETE", "/api/row", (405, '{"detail":"Method Not Allowed"}')),
        ("GET", "/row", (404, '{"detail":"Not Found"}')),
    ],
)
def test_other_requests_are_served_as_before(method: str, path: str, expected: tuple[int, str]) -> None:
    app = _app(("GET", "/row"), ("POST", "/row"), ("GET", "/row/{number}"))
    assert _ask(app, method, path) == expected


def test_a_route_that_is_added_later_is_found() -> None:
    app = _app(*MANY)
    _ask(app, "GET", "/api/row1")

    async def late(request: Request) -> Response:
        return PlainTextResponse("late")

    app.router.add_api_route("/late", late, route_class_override=Noting)
    assert _ask(app, "GET", "/late") == (200, "late")
    assert tried == ["/late"]
    assert any(isinstance(route, APIRoute) and route.path == "/late" for route in app.routes)
