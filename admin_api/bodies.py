"""Limits for the bodies of requests: those that are too large or too slow are refused."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api.problems import problem

MAX_BODY_BYTES = 64 * 1024
"""The largest useful body has a few hundred bytes."""


class LimitBody:
    """Passes a request on once its whole body has arrived; refuses a body that is too large or too slow.

    An announced length is checked before anything is read; without one (chunked), the length is checked while reading.
    """

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            await _too_large(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                is_whole = False
                while not is_whole:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > MAX_BODY_BYTES:
                        await _too_large(scope, receive, send)
                        return
                    is_whole = not message.get("more_body", False)
        except TimeoutError:
            await _too_slow(scope, receive, send)
            return
        await self._app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    is_told = False

    async def next_message() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    response = problem(
        413,
        code="body-too-large",
        title="The body is too large",
        detail=f"The body is larger than {MAX_BODY_BYTES // 1024} kB.",
        hint="See GET /openapi.json for the format of a body.",
    )
    await response(scope, receive, send)


async def _too_slow(scope: Scope, receive: Receive, send: Send) -> None:
    response = problem(
        408,
        code="body-too-slow",
        title="The body arrived too slowly",
        detail="The body did not arrive in time.",
        hint="Send the request again.",
        headers={"Connection": "close"},
    )
    await response(scope, receive, send)
