"""The context of each request, and one log line for it when it has ended."""

import logging
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api.identity import identity_of
from admin_api.methods import method_of
from admin_api.request_context import REQUEST_ID_HEADER, TRACEPARENT_HEADER, RequestContext, begin, end
from admin_api.routing import template_of
from admin_api.settings import HEALTH_PREFIX
from citus_cluster.model.log_records import ACCESS_LOGGER

MAX_PATH = 200
"""Characters of a path that belongs to no route; a client may have written anything there."""
logger = logging.getLogger(ACCESS_LOGGER)


class LogRequests:
    """Sets the identifiers of a request, repeats them in its answer, and logs the request, but no health check."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        context = RequestContext.of_headers(headers.getlist(REQUEST_ID_HEADER), headers.getlist(TRACEPARENT_HEADER))
        answered = (
            (REQUEST_ID_HEADER.encode(), context.request_id.encode()),
            (TRACEPARENT_HEADER.encode(), context.traceparent.encode()),
        )
        started = time.perf_counter()
        status: int | None = None
        size_bytes = 0

        async def watch(message: Message) -> None:
            nonlocal status, size_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *answered]}
            elif message["type"] == "http.response.body":
                size_bytes += len(message.get("body", b""))
            await send(message)

        token = begin(context)
        try:
            await self._app(scope, receive, watch)
        finally:
            if not scope["path"].startswith(HEALTH_PREFIX):
                log(scope, status, size_bytes, (time.perf_counter() - started) * 1000)
            end(token)


def log(scope: Scope, status: int | None, size_bytes: int, duration_ms: float) -> None:
    """Log a request that has ended: who sent it, and what became of it. Values of the query may be secrets."""
    path, method, identity = template_of(scope) or scope["path"][:MAX_PATH], method_of(scope), identity_of(scope)
    members: dict[str, Any] = {
        "method": method,
        "path": path,
        "status": status,
        "duration_ms": round(duration_ms, 1),
        "client": client_of(scope),
        "token": identity.name if identity else None,
        "role": identity.role.value if identity else None,
        "bytes": size_bytes,
    }
    logger.info("%s %s %s", method, path, status, extra={"members": members})


def client_of(scope: Scope) -> str | None:
    """Return the address of the client. For a port that Docker publishes, it can be the address of the bridge."""
    client = scope.get("client")
    return client[0] if client else None
