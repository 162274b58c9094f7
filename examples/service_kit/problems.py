"""Every error is an answer in the format of RFC 9457, and a database that is away is a 503 and not a 500."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import psycopg
from fastapi import FastAPI, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service_kit.unavailable import UnavailableError as UnavailableError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
MAX_BODY_BYTES = 64 * 1024
logger = logging.getLogger(__name__)


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Build an error response; ``errors`` lists the fields of a request that are wrong."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = list(errors)
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def unavailable(detail: str) -> JSONResponse:
    """Build the response for a server that does not answer."""
    return problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def install(app: FastAPI) -> None:
    """Answer every error of the app as a problem, and refuse bodies above MAX_BODY_BYTES."""
    app.add_middleware(BodyLimit)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(StarletteHTTPException, _on_http_exception)
    app.add_exception_handler(UnavailableError, _on_unavailable)
    app.add_exception_handler(psycopg.OperationalError, _on_lost_database)
    app.add_exception_handler(Exception, _on_defect)


def _on_invalid_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    # The input is not repeated: it may be large, or a secret.
    errors = [{"field": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in error.errors()]
    return problem(422, "The request is not valid.", errors=jsonable_encoder(errors))


def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101
    return problem(error.status_code, str(error.detail), headers=error.headers)


def _on_unavailable(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UnavailableError)  # noqa: S101
    return unavailable(error.detail)


def _on_lost_database(request: Request, error: Exception) -> JSONResponse:
    logger.warning("%s %s: the database does not answer: %s", request.method, request.url.path, error)
    return unavailable("The database does not answer. Try again in a few seconds.")


def _on_defect(_: Request, __: Exception) -> JSONResponse:
    # Starlette logs the traceback.
    return problem(500, "The service failed. Its log has the reason.")


class BodyLimit:
    """Refuse a request whose body is larger than MAX_BODY_BYTES, also one that does not say its length."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            await _too_large()(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:
                # FastAPI passes it on to the handler of HTTP errors.
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self.app(scope, counted, send)


_TOO_LARGE = f"The body is larger than {MAX_BODY_BYTES // 1024} kB."


def _too_large() -> JSONResponse:
    return problem(413, _TOO_LARGE, headers={"Connection": "close"})
