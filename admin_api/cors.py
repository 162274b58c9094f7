"""Cross-origin requests (CORS): web pages of the configured origins may call the API, with a token in the header.

By default there are none. Credentials of the browser, such as cookies, are never allowed: such a request has no
``Access-Control-Allow-Credentials`` in its answer.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api.configuration import Configuration
from admin_api.problems import problem
from citus_cluster.errors import CitusClusterError

METHODS = "DELETE, GET, HEAD, PATCH, POST, PUT"
SENT_HEADERS = (
    "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, traceparent, x-request-id"
)
"""What a page may send; the form of a browser's question is in lower case."""
SHOWN_HEADERS = "ETag, Link, Location, Retry-After, Traceparent, WWW-Authenticate, X-Request-ID"
"""What a page may read in an answer, in addition to what every page may."""
PREFLIGHT_LIFE_S = 600


class AllowOrigins:
    """Answers a browser's question whether a page may call, and says so in every answer to such a page."""

    def __init__(self, app: ASGIApp, configuration: Configuration) -> None:
        self._app = app
        self._configuration = configuration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = self._origins() if scope["type"] == "http" else ()
        if not origins:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        is_allowed = origin in origins
        if origin and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            # Browsers send no token with this question.
            await _preflight(origin if is_allowed else None)(scope, receive, send)
            return

        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                answered.add_vary_header("Origin")
                if is_allowed and origin:
                    answered["Access-Control-Allow-Origin"] = origin
                    answered["Access-Control-Expose-Headers"] = SHOWN_HEADERS
            await send(message)

        await self._app(scope, receive, mark)

    def _origins(self) -> tuple[str, ...]:
        try:
            return self._configuration.cluster().cors_origins
        except CitusClusterError:
            # The request itself reports it.
            return ()


def _preflight(origin: str | None) -> Response:
    vary = {"Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
    if origin is None:
        return problem(
            403,
            detail="Pages of this origin may not call the admin API.",
            hint="Add the origin to admin_api.cors_origins in cluster.yaml, then run setup_citus_cluster.py.",
            headers=vary,
        )
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": SENT_HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_LIFE_S),
            **vary,
        },
    )
