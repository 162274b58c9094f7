"""HEAD and OPTIONS, which every path supports, and the methods of a path."""

from fastapi import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

_METHOD_KEY = "citus_cluster.method"
_ROUTED = ("DELETE", "GET", "PATCH", "POST", "PUT")


class AnswerHead:
    """Answers HEAD like GET; the server omits the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy, because the server reads its own scope.
            scope = {**scope, "method": "GET", _METHOD_KEY: "HEAD"}
        await self._app(scope, receive, send)


def method_of(scope: Scope) -> str:
    """Return the method that the client sent, which is HEAD where the app sees GET."""
    method: str = scope.get(_METHOD_KEY, scope["method"])
    return method


def allowed(request: Request) -> str:
    """List all methods of the path of a request, in the form of the header Allow."""
    base = {key: request.scope[key] for key in ("type", "path", "root_path", "headers")}
    routed = {
        method
        for method in _ROUTED
        if any(route.matches({**base, "method": method})[0] is Match.FULL for route in request.app.routes)
    }
    return ", ".join(sorted(routed | {"OPTIONS"} | ({"HEAD"} if "GET" in routed else set())))
