"""Logging in and out, and the static files, which need no token."""

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from admin_api.identity import UnauthorizedError
from admin_api.pages.assets import KEPT, assets
from admin_api.pages.routing import field, form_of, log_in_page, router, sessions_of
from admin_api.sessions import COOKIE, MAX_AGE_S, MAX_TOKEN, cookie_of
from admin_api.settings import LOG_IN_PATH, LOG_OUT_PATH, STATIC_PREFIX
from citus_cluster.errors import CitusClusterError

routes = router()


@routes.get(LOG_IN_PATH)
async def show_log_in(request: Request) -> Response:
    return log_in_page(request, None, "/")


@routes.post(LOG_IN_PATH)
async def log_in(request: Request) -> Response:
    form = form_of(request)
    token, target = field(form, "token").strip(), _target(field(form, "next"))
    client = request.client.host if request.client else None
    try:
        if not token or len(token) > MAX_TOKEN or not token.isascii():
            raise UnauthorizedError("This is not a token.", hint="Copy the whole token, without quotes.")
        value, _ = await sessions_of(request).begin(token, client)
    except CitusClusterError as error:
        return log_in_page(request, error, target)
    answer = RedirectResponse(target, 303)
    answer.set_cookie(
        COOKIE,
        value,
        max_age=int(MAX_AGE_S),
        path="/",
        # Behind a proxy that ends TLS, only the browser knows the scheme.
        secure=request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://"),
        httponly=True,
        samesite="strict",
    )
    return answer


@routes.post(LOG_OUT_PATH)
async def log_out(request: Request) -> Response:
    value = cookie_of(request.headers)
    if value is not None:
        sessions_of(request).end(value)
    answer = RedirectResponse(LOG_IN_PATH, 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@routes.get(STATIC_PREFIX + "{digest}/{name:path}")
async def static(request: Request, digest: str, name: str) -> Response:
    asset = assets().get(name)
    if asset is None or asset.digest != digest:
        raise HTTPException(404)
    headers = {"Cache-Control": KEPT, "X-Content-Type-Options": "nosniff", "ETag": f'"{digest}"'}
    return Response(asset.content, media_type=asset.media_type, headers=headers)


def _target(text: str) -> str:
    """Return where to go after the log-in: a path of this API and nothing else."""
    is_path = text.startswith("/") and not text.startswith(("//", "/\\"))
    return text if is_path and text.isprintable() and len(text) < 2000 else "/"
