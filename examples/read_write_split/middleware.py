"""Around every request: its lines in the log, and its figures.

Plain ASGI: Starlette's BaseHTTPMiddleware runs the application in another task, which costs time, and hides a client
that has gone.
"""

import asyncio
import logging
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from read_write_split.logs import request_id
from read_write_split.metrics import Metrics

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

logger = logging.getLogger("fastapi_app")


class Observation:
    """Logs and counts requests; an error, and a request that is cancelled, is passed on."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        own_id = secrets.token_hex(4)
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", own_id.encode())]}
            await send(message)

        started = time.perf_counter()
        token = request_id.set(own_id)
        self._metrics.in_progress.inc()
        outcome = "500"
        try:
            client = scope["client"][0] if scope.get("client") else "unknown"
            logger.info("Request started: %s %s from %s", method, path, client)
            await self.app(scope, receive, noted)
            outcome = str(status)
            duration_s = time.perf_counter() - started
            facts = {"method": method, "path": path, "status": status, "duration_s": round(duration_s, 6)}
            logger.info(
                "Request completed: %s %s status=%d duration=%.3fs",
                *(method, path, status, duration_s),
                extra={"facts": facts},
            )
        except asyncio.CancelledError:
            outcome = "cancelled"
            self._failed(method, path, "cancelled", started)
            raise
        except Exception as error:
            self._failed(method, path, repr(error), started)
            logger.debug("Stack trace of the failed request", exc_info=True)
            raise
        finally:
            self._metrics.in_progress.dec()
            # Neither a path nor a method of a client's own may make a new series each time.
            route = getattr(scope.get("route"), "path", "unmatched")
            counted = method if method in _METHODS else "other"
            self._metrics.requests.labels(counted, route, outcome).inc()
            self._metrics.durations.labels(counted, route).observe(time.perf_counter() - started)
            request_id.reset(token)

    @staticmethod
    def _failed(method: str, path: str, error: str, started: float) -> None:
        duration_s = time.perf_counter() - started
        logger.error("Request failed: %s %s duration=%.3fs error=%s", method, path, duration_s, error)
