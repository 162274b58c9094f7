"""HEAD and OPTIONS, which every path answers, and the methods that a path has."""

from fastapi import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

_ROUTED = ("DELETE", "GET", "PATCH", "POST", "PUT")


class AnswerHead:
    """Has HEAD answered as GET; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy, since the server looks into its own.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def allowed(request: Request) -> str:
    """List every method that the path of a request has, as the header Allow does."""
    base = {key: request.scope[key] for key in ("type", "path", "root_path", "headers")}
    routed = {
        method
        for method in _ROUTED
        if any(route.matches({**base, "method": method})[0] is Match.FULL for route in request.app.routes)
    }
    return ", ".join(sorted(routed | {"OPTIONS"} | ({"HEAD"} if "GET" in routed else set())))
