"""Metrics of the API's own requests. Labels are bounded: the template of a route, never the path of a request."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api.routing import template_of

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "none"
"""The label of a request that no route handles: an unknown path, or one that was refused before it was routed."""
_ROUTED = "citus_cluster.routed"
"""The key of an ASGI scope that holds the template of the request's route, once it is known, in a list."""
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class HttpFigures:
    """The metrics of all requests of one app."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "citus_cluster_http_requests",
            "Requests that the admin API answered, by the template of their route.",
            ("route", "method", "status"),
            registry=registry,
        )
        self.durations = Histogram(
            "citus_cluster_http_request_duration_seconds",
            "Time until the whole response was sent.",
            ("route", "method"),
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "citus_cluster_http_requests_in_flight",
            "Requests that the admin API is handling now.",
            registry=registry,
        )


class CountRequests:
    """Counts and times every request, including those that another middleware refuses."""

    def __init__(self, app: ASGIApp, figures: HttpFigures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        began = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        # A middleware in between may pass on a copy of the scope, but the copy has the same list.
        routed: list[str] = []
        scope[_ROUTED] = routed
        self._figures.in_flight.inc()
        try:
            await self._app(scope, receive, watch)
        finally:
            self._figures.in_flight.dec()
            route = routed[0] if routed else _NO_ROUTE
            method = scope["method"] if scope["method"] in _METHODS else "other"
            # A client that left before the response began got no status; 499 is nginx' number for this.
            self._figures.requests.labels(route, method, str(status or 499)).inc()
            self._figures.durations.labels(route, method).observe(time.perf_counter() - began)


class NoteRoute:
    """Notes the route that the router has chosen; it must be the innermost middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            template = template_of(scope)
            if template and _ROUTED in scope:
                scope[_ROUTED].append(template)
