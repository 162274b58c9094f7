"""What all routes of pages have in common: forms that only our pages can send, and errors as pages."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import parse_qs

import psycopg
import psycopg.errors
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Scope

from admin_api.auth import SAFE_METHODS, is_browser
from admin_api.identity import ForbiddenError, UnauthorizedError, identity_of
from admin_api.pages.html import may_change, render
from admin_api.sessions import CSRF_FIELD, CSRF_HEADER, Sessions, refuse_forged, session_of
from admin_api.settings import LOG_IN_PATH
from citus_cluster.errors import CitusClusterError, NotFoundError
from citus_cluster.runtime.store.operations import OperationRunningError

_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 500


class PageRoute(APIRoute):
    """Checks that a form is one of ours before its route sees it, and answers errors with a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        serve = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                if request.method not in SAFE_METHODS:
                    await _check_form(request)
                return await serve(request)
            except CitusClusterError as error:
                return error_page(request, error)
            except psycopg.errors.QueryCanceled:
                return _late(request)
            except TimeoutError:
                return _late(request)
            except psycopg.OperationalError:
                return _problem_page(
                    request,
                    503,
                    "The coordinator does not answer",
                    "The connection to the coordinator was lost.",
                    "This page tries again by itself.",
                )
            except RequestValidationError:
                return _problem_page(request, 422, "This address is not valid", "A part of it does not fit.", None)
            except HTTPException as error:
                return _problem_page(request, error.status_code, "This does not work", str(error.detail), None)

        return handle


def router() -> APIRouter:
    """Return a router for pages."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


async def _check_form(request: Request) -> None:
    """Read the form of a request, and raise CrossSiteError unless a page of ours sent it."""
    sessions_of(request).refuse_cross_site(request.headers)
    body = await request.body()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        text = body.decode() if media_type == _FORM else ""
        form = parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError:
        raise HTTPException(422, "The form cannot be read.") from None
    session = session_of(request.scope)
    if session is not None:
        sent = form.get(CSRF_FIELD, [None])[-1]
        refuse_forged(session, sent if sent is not None else request.headers.get(CSRF_HEADER))
    request.state.form = form


def sessions_of(request: Request) -> Sessions:
    """Return the sessions of the app."""
    sessions: Sessions = request.app.state.sessions
    return sessions


def form_of(request: Request) -> Mapping[str, list[str]]:
    """Return what a form sent, which has been checked."""
    form: dict[str, list[str]] = request.state.form
    return form


def field(form: Mapping[str, list[str]], name: str) -> str:
    """Return a text that a form sent; empty if it did not."""
    return (form.get(name) or [""])[-1]


def require_admin(request: Request) -> None:
    """Raise ForbiddenError for a token that may only read."""
    if not may_change(identity_of(request.scope)):
        raise ForbiddenError("This token may only read.", hint="Log in with a token that has the role admin.")


def refuse_page(scope: Scope, error: CitusClusterError) -> Response:
    """Answer a browser that may not see a page: with the form to log in if that would help."""
    request = Request(scope)
    if not isinstance(error, UnauthorizedError):
        return error_page(request, error)
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    # The form of a change has the address to which it is sent.
    is_page = request.method == "GET" or request.url.path.startswith("/changes/")
    return log_in_page(request, error, target if is_page else "/")


def log_in_page(request: Request, error: CitusClusterError | None, target: str) -> Response:
    """Show the form to log in; ``target`` is where the user goes then."""
    is_new = error is None or type(error).__name__ == "MissingTokenError"
    status = 200 if error is None else error.http_status
    context = {"error": None if is_new else error, "target": target, "log_in": LOG_IN_PATH}
    return render(request, "login.html", context, status=status)


def error_page(request: Request, error: CitusClusterError) -> Response:
    """Show one of our errors."""
    operation = error.operation.id if isinstance(error, OperationRunningError) else None
    name = (type(error).__doc__ or error.code).strip().splitlines()[0].rstrip(".")
    context = {
        "name": name,
        "message": error.message,
        "hint": error.hint,
        "details": error.details,
        "operation": operation,
        "status": error.http_status,
    }
    return render(request, "error.html", context, status=error.http_status)


def missing_page(request: Request) -> Response | None:
    """Return the page for an unknown path; None if a program asks."""
    if not is_browser(request.scope):
        return None
    return error_page(request, NotFoundError("There is no such page.", hint="Choose another one in the navigation."))


def _late(request: Request) -> Response:
    return _problem_page(
        request,
        504,
        "The coordinator took too long",
        "It may be busy, paused, or waiting for a lock.",
        "This page tries again by itself.",
    )


def _problem_page(request: Request, status: int, name: str, message: str, hint: str | None) -> Response:
    context = {"name": name, "message": message, "hint": hint, "details": (), "operation": None, "status": status}
    return render(request, "error.html", context, status=status)
