"""``POST /users`` writes to the primary, ``GET /users`` reads from the replica, or what was read from it before."""

import json
import logging
import time
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Response
from pydantic import BaseModel
from service_kit.fields import Name

from read_write_split.activity import ActivityLog, Record
from read_write_split.database import Database, RefusedError
from read_write_split.dependencies import (
    POSITION_HEADER,
    get_activity,
    get_cache,
    get_client,
    get_database,
    get_metrics,
    get_token_position,
    take_allowance,
)
from read_write_split.list_cache import ListCache, Page
from read_write_split.metrics import Metrics

PAGE = 1000
_MAX_ID = 2**31 - 1

logger = logging.getLogger("fastapi_app")
router = APIRouter()


class UserCreate(BaseModel):
    """A new user."""

    name: Name


class User(BaseModel):
    """A user as stored."""

    id: int
    name: str


@router.post("/users")
async def create_user(
    user: UserCreate,
    response: Response,
    headers: Annotated[dict[str, str], Depends(take_allowance)],
    client: Annotated[str, Depends(get_client)],
    database: Annotated[Database, Depends(get_database)],
    cache: Annotated[ListCache, Depends(get_cache)],
    activity: Annotated[ActivityLog, Depends(get_activity)],
) -> User:
    """Create a user. The header X-Commit-LSN of the answer, sent with a later GET, makes sure that it has the user."""
    started = time.perf_counter()
    logger.info("Creating user with name: %s", user.name)
    try:
        number, name, position = await database.create_user(user.name)
    except RefusedError as error:
        logger.error("Insert failed: %s", error.detail)
        raise HTTPException(400, f"Insert failed: {error.detail}", headers=headers) from None
    logger.info("Inserted user id=%d name=%s duration=%.3fs", number, name, time.perf_counter() - started)
    await cache.invalidate(position)
    activity.note(Record(client, "user created", number, name))
    response.headers.update({**headers, POSITION_HEADER: str(position)})
    return User(id=number, name=name)


@router.get("/users", response_model=list[User])
async def list_users(
    headers: Annotated[dict[str, str], Depends(take_allowance)],
    database: Annotated[Database, Depends(get_database)],
    cache: Annotated[ListCache, Depends(get_cache)],
    metrics: Annotated[Metrics, Depends(get_metrics)],
    token: Annotated[int, Depends(get_token_position)],
    after: Annotated[int, Query(ge=0, le=_MAX_ID, description="Only users with a larger id.")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
) -> Response:
    """List users by id, at most 1000; the header Link leads to the next ones."""
    started = time.perf_counter()
    logger.debug("Fetching all users")
    cached = (after, limit) == (0, PAGE)
    found = await cache.look_up(token)
    page, source = (found.page, "cache") if cached else (None, "")
    if page is None:
        try:
            reading = await database.users(after, limit, found.at_least, position=found.generation is not None)
        except RefusedError as error:
            logger.error("Query failed: %s", error.detail)
            raise HTTPException(400, f"Query failed: {error.detail}", headers=headers) from None
        rows = [{"id": number, "name": name} for number, name in reading.users]
        last = reading.users[-1][0] if len(rows) == limit else None
        page = Page(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode(), len(rows), last)
        source = "replica" if reading.standby else "primary"
        if cached and found.generation is not None and reading.complete_to is not None:
            await cache.store(page, reading.complete_to, found.generation)
    metrics.reads.labels(source).inc()
    logger.info("Fetched %d users duration=%.3fs from=%s", page.count, time.perf_counter() - started, source)
    headers = {**headers, "X-Read-From": source}
    if page.last is not None:
        headers["Link"] = f'</users?after={page.last}&limit={limit}>; rel="next"'
    return Response(page.body, media_type="application/json", headers=headers)
