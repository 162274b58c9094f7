"""The format of every error: problem details for HTTP, RFC 9457.

``type`` is ``about:blank`` if the status is sufficient, and one of our URNs if ``code`` adds information.
An answer repeats no part of a request, and details of a bug are only in the log.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

import psycopg
import psycopg.errors
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api.methods import allowed
from admin_api.request_context import request_id
from admin_api.responses import VisibleJSONResponse
from admin_api.settings import API_PREFIX
from citus_cluster.errors import CitusClusterError, RebalanceRunningError, UnsupportedError
from citus_cluster.runtime.store.operations import OperationRunningError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:citus-cluster:problem:"
RETRY_SOON = {"Retry-After": "5"}
logger = logging.getLogger(__name__)


def problem(
    status: int,
    *,
    code: str | None = None,
    title: str | None = None,
    detail: str | None = None,
    hint: str | None = None,
    details: Sequence[str] = (),
    errors: Sequence[Mapping[str, object]] = (),
    operation: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the response for a problem; members without a value are omitted."""
    phrase = HTTPStatus(status).phrase
    body = {
        "type": f"{TYPE_PREFIX}{code}" if code else "about:blank",
        "title": title or phrase,
        "status": status,
        "code": code or phrase.lower().replace(" ", "-"),
        "detail": detail,
        "hint": hint,
        "details": list(details) or None,
        "errors": list(errors) or None,
        "operation": operation,
        "request_id": request_id(),
    }
    content = {key: value for key, value in body.items() if value is not None}
    return VisibleJSONResponse(content, status, headers=headers, media_type=MEDIA_TYPE)


def from_error(error: CitusClusterError, *, operation: str | None = None) -> JSONResponse:
    """Return the response for one of our errors: its class is the type of problem, its message the occurrence.

    ``operation`` is the address of the operation that failed, or that excludes the requested one; of a
    rebalance, the address of its progress.
    """
    if isinstance(error, OperationRunningError):
        operation = f"{API_PREFIX}/operations/{error.operation.id}"
    elif isinstance(error, RebalanceRunningError):
        operation = operation or f"{API_PREFIX}/rebalance"
    title = (type(error).__doc__ or error.code).strip().splitlines()[0].rstrip(".")
    is_temporary = error.http_status == HTTPStatus.SERVICE_UNAVAILABLE and not isinstance(error, UnsupportedError)
    return problem(
        error.http_status,
        code=error.code,
        title=title,
        detail=error.message,
        hint=error.hint,
        details=error.details,
        operation=operation,
        headers=RETRY_SOON if is_temporary else None,
    )


def install(app: FastAPI, missing_page: Callable[[Request], Response | None]) -> None:
    """Turn every error of the app into a problem.

    ``missing_page`` returns the page for an unknown path if a browser asks for it.
    """

    async def on_http_exception(request: Request, error: Exception) -> Response:
        page = missing_page(request) if getattr(error, "status_code", None) == HTTPStatus.NOT_FOUND else None
        return page or await _on_http_exception(request, error)

    app.add_middleware(_UnexpectedErrors)
    app.add_exception_handler(CitusClusterError, _on_citus_cluster_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(psycopg.OperationalError, _on_lost_coordinator)
    app.add_exception_handler(psycopg.errors.QueryCanceled, _on_timeout)
    app.add_exception_handler(TimeoutError, _on_timeout)


class _UnexpectedErrors:
    """Handles errors that nothing else has caught; with Starlette's own handler they would be logged twice."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            response = problem(
                500,
                code="internal-error",
                title="Internal error of the admin API",
                detail="The request failed for an unknown reason.",
                hint="See the log of the admin API for details.",
            )
            await response(scope, receive, send)


async def _on_citus_cluster_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CitusClusterError)  # noqa: S101 - Starlette's signature is wider than its use
    return from_error(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # The router's own response names the methods of only one of the path's routes.
        methods = allowed(request)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": methods})
        return problem(
            405,
            detail="This path does not support the method of the request.",
            hint=f"It supports {methods}.",
            headers={"Allow": methods},
        )
    phrase = HTTPStatus(error.status_code).phrase
    detail, hint = (error.detail if error.detail != phrase else None), None
    if error.status_code == HTTPStatus.NOT_FOUND and detail is None:
        detail, hint = "The API has no such path.", "See GET /openapi.json, or the page /docs, for all paths."
    match error.__cause__:
        case UnicodeDecodeError():
            detail = "The body is not UTF-8."
        case RecursionError():
            detail = "The body is nested too deeply."
    return problem(error.status_code, detail=detail, hint=hint, headers=error.headers)


async def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    if isinstance(error.body, bytes):
        # Only a body that is not declared as JSON arrives here unparsed.
        return problem(
            415,
            detail="The body must be JSON, and the header Content-Type must be application/json.",
            hint="Send the header 'Content-Type: application/json'; by default, curl -d sends another one.",
        )
    # The input itself is omitted, because it may be a secret in the wrong place.
    errors = [{"location": list(found["loc"]), "message": found["msg"]} for found in error.errors()]
    return problem(
        422,
        code="invalid-request",
        title="The request is not valid",
        detail="; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()),
        errors=errors,
    )


async def _on_lost_coordinator(request: Request, error: Exception) -> JSONResponse:
    logger.warning("the coordinator was lost during %s %s: %s", request.method, request.url.path, error)
    return problem(
        503,
        code="unreachable",
        title="A server does not answer",
        detail="The connection to the coordinator was lost during the request.",
        hint="Try again when GET /health reports ok.",
        headers=RETRY_SOON,
    )


async def _on_timeout(request: Request, error: Exception) -> JSONResponse:
    return problem(
        504,
        code="timeout",
        title="The coordinator took too long",
        detail="The coordinator did not answer the request in time; it may be busy, paused, or waiting for a lock.",
        hint="Check GET /health, then try again.",
    )
