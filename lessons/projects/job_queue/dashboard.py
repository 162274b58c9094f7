"""The dashboard: a page, and the same numbers as JSON. It only reads; dead letters are replayed on the command line."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import redis
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse

from .queue import LONGEST_WINDOW_S, Job, JobQueue

_PAGE = (Path(__file__).parent / "dashboard.html").read_text(encoding="utf-8")


def create_app(queue: JobQueue) -> FastAPI:
    app = FastAPI(title="Job queue")
    # A page elsewhere that lets its own name point to this machine reads nothing.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])

    @app.exception_handler(redis.RedisError)
    def redis_is_away(request: Request, error: redis.RedisError) -> JSONResponse:
        return JSONResponse({"detail": f"Redis cannot be used: {error}"}, 503, {"Retry-After": "2"})

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return _PAGE

    @app.get("/stats")
    def stats(window_s: Annotated[int, Query(ge=1, le=LONGEST_WINDOW_S)] = 60) -> dict[str, Any]:
        return asdict(queue.stats(window_s))

    @app.get("/dead")
    def dead(limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> list[dict[str, Any]]:
        return [_shown(one) for one in queue.dead_letters(limit)]

    @app.get("/jobs/{job_id}")
    def job(job_id: str) -> dict[str, Any]:
        found = queue.get(job_id)
        if found is None:
            raise HTTPException(404, f"There is no job {job_id}. Jobs that are done are kept for an hour.")
        return _shown(found)

    return app


def _shown(job: Job) -> dict[str, Any]:
    """Everything but the token, which is the worker's."""
    return {name: value for name, value in asdict(job).items() if name != "token"}
