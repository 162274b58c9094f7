"""The HTTP interface."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from .analytics import Bucket, statistics
from .dashboard import link_page, overview_page
from .service import NoFreeCodeError, Shortener, now_ms, running
from .settings import Settings, exported_settings
from .store import StoreAwayError
from .targets import RefusedTargetError, read_target

_MAX_BODY_BYTES = 16 * 1024
_RETRY_AFTER_S = 2
_SHOWN_LINKS = 20


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; without settings, those of the environment are used."""
    chosen = settings or exported_settings()
    logging.basicConfig(format="%(levelname)s: %(message)s")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(chosen) as shortener:
            app.state.shortener = shortener
            yield

    # The page of the documentation would load scripts from a content delivery network.
    app = FastAPI(title="URL shortener", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.base_url = chosen.base_url
    app.add_exception_handler(StoreAwayError, _store_away)
    app.add_api_route("/shorten", shorten, methods=["POST"], status_code=201)
    app.add_api_route("/", shorten, methods=["POST"], status_code=201)
    app.add_api_route("/", overview, methods=["GET"], response_class=HTMLResponse)
    app.add_api_route("/dashboard/{code}", dashboard, methods=["GET"], response_class=HTMLResponse)
    app.add_api_route("/stats", stats, methods=["GET"])
    app.add_api_route("/stats/{code}", stats_of_link, methods=["GET"])
    app.add_api_route("/health", health, methods=["GET"])
    # A plain route: what FastAPI does with parameters would take as long as the rest of a redirect.
    app.add_route("/{code}", redirect, methods=["GET", "HEAD"])
    return app


async def _store_away(_: Request, error: Exception) -> Response:
    return JSONResponse(
        {"detail": f"The database does not answer: {error}. Try again in {_RETRY_AFTER_S} s."},
        503,
        {"Retry-After": str(_RETRY_AFTER_S)},
    )


def _shortener(request: Request) -> Shortener:
    return cast("Shortener", request.app.state.shortener)


def _ip(request: Request) -> str:
    return request.client.host if request.client else ""


async def redirect(request: Request) -> Response:
    """Answer 302, once the click is in the queue. HEAD is what programs send to check a link, so it is no click."""
    shortener = _shortener(request)
    code = request.path_params["code"]
    url = await shortener.target(code)
    if url is None:
        return PlainTextResponse("Not found", 404)
    if request.method == "GET":
        await shortener.click(code, request.headers.get("referer", ""), _ip(request))
    # A browser that kept the redirect would not be counted again.
    return Response(status_code=302, headers={"Location": url, "Cache-Control": "no-store"})


async def shorten(request: Request) -> JSONResponse:
    """Make a code for ``{"url": …}``; 422 for what is not an http or https address, 429 above the limit."""
    shortener = _shortener(request)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"The body is longer than {_MAX_BODY_BYTES} bytes.")
    try:
        url = read_target(bytes(body), request.app.state.base_url)
    except RefusedTargetError as error:
        raise HTTPException(422, str(error)) from error
    if wait_s := await shortener.limit.take(_ip(request)):
        raise HTTPException(429, f"Rate limit exceeded. Try again in {wait_s} s.", {"Retry-After": str(wait_s)})
    try:
        link = await shortener.shorten(url)
    except NoFreeCodeError as error:
        raise HTTPException(503, "No free code was found. Try again.", {"Retry-After": "1"}) from error
    return JSONResponse({"short_url": f"{request.app.state.base_url}/{link.code}", "code": link.code}, 201)


async def stats(request: Request) -> dict[str, int | None]:
    """Count links and clicks. The clicks of the last five minutes are those in Redis, null without it."""
    shortener = _shortener(request)
    urls, clicks = await shortener.store.totals()
    return {"urls": urls, "clicks": clicks, "clicks_last_5_minutes": await shortener.live.last_minutes()}


async def stats_of_link(request: Request, code: str, bucket: Bucket = Bucket.HOUR) -> dict[str, Any]:
    """Count the clicks of a link by minute, hour or day, by referrer and by country."""
    shortener = _shortener(request)
    found = await statistics(shortener.store, code, bucket, now_ms())
    if found is None:
        raise HTTPException(404, "Not found")
    return {**found.as_json(), "clicks_last_5_minutes": await shortener.live.last_minutes(code)}


async def overview(request: Request) -> HTMLResponse:
    """The page of the newest links."""
    shortener = _shortener(request)
    urls, clicks = await shortener.store.totals()
    newest = await shortener.store.newest(_SHOWN_LINKS)
    return overview_page(urls, clicks, await shortener.live.last_minutes(), newest)


async def dashboard(request: Request, code: str, bucket: Bucket = Bucket.HOUR) -> HTMLResponse:
    """The page of a link."""
    shortener = _shortener(request)
    found = await statistics(shortener.store, code, bucket, now_ms())
    if found is None:
        raise HTTPException(404, "Not found")
    short_url = f"{request.app.state.base_url}/{code}"
    return link_page(found, short_url, await shortener.live.last_minutes(code))


async def health(request: Request) -> JSONResponse:
    """Answer 200 if the database answers, 503 if not. A missing Redis makes the service slower, not wrong."""
    shortener = _shortener(request)
    try:
        await shortener.store.position("")
        database = "ok"
    except StoreAwayError as error:
        database = str(error)
    await shortener.live.last_minutes()
    redis = "not used" if shortener.redis is None else shortener.redis.away or "ok"
    body = {
        "status": "healthy" if database == "ok" and not shortener.lost_clicks else "unhealthy",
        "checks": {
            "database": database,
            "redis": redis,
            "lost_clicks": shortener.lost_clicks,
            "waiting_click_bytes": shortener.collector.waiting_bytes,
        },
    }
    return JSONResponse(body, 200 if body["status"] == "healthy" else 503)
