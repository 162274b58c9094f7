"""The API: users on shards, and what the shards hold."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any

import psycopg
import redis.asyncio
from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from service_kit import problems
from service_kit.fields import Name
from service_kit.health import Health, answer
from service_kit.unavailable import UnavailableError

from consistent_hashing import cache, schema
from consistent_hashing.cache import UserCache
from consistent_hashing.distribution import draw_svg
from consistent_hashing.scatter import Scatter
from consistent_hashing.settings import Redis, Settings, read_settings
from consistent_hashing.shards import Shards
from consistent_hashing.topology import ShardBy, TopologyError
from consistent_hashing.users import User, UserExistsError, UserStore, count_users

logger = logging.getLogger(__name__)
LARGEST_ID = 2**63 - 1
PAGE = 100
DUPLICATE_STATUS = 500
"""As the document that this service implements says. In a service of your own, use 409."""


Region = Annotated[Name, Field(max_length=50)]
UserId = Annotated[int, Path(ge=1, le=LARGEST_ID)]


class UserValues(BaseModel):
    """What can be changed of a user."""

    model_config = ConfigDict(strict=True)

    name: Name
    region: Region
    email: Name


class UserCreate(UserValues):
    """A new user; the client chooses the id, because it decides the shard."""

    user_id: Annotated[int, Field(ge=1, le=LARGEST_ID)]


class UserResponse(UserCreate):
    """A user as it is stored."""


class RegionResponse(BaseModel):
    """Users of a region, in the order of their ids. If not ``complete``, those of ``failed`` are missing."""

    users: list[UserResponse]
    complete: bool
    answered: list[str]
    failed: dict[str, str]


class ShardResponse(BaseModel):
    """The users of a shard; None if it does not answer."""

    shard: str
    users: int | None
    ring_share: float


class Parts:
    """What the endpoints need."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.shards = Shards(settings.server, settings.first.shards, pool_size=settings.pool_size)
        self.store = UserStore(self.shards, Scatter())
        self.cache = None if settings.redis is None else UserCache(_connect(settings.redis), settings.redis.prefix)
        self._preparing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._preparing = asyncio.create_task(self._prepare())
        # A service whose databases answer is ready with its first request; one whose do not begins with 503.
        await asyncio.wait({self._preparing}, timeout=5)

    async def _prepare(self) -> None:
        pause_s = 0.5
        while True:
            try:
                await schema.make_shards(self.settings.server, self.settings.first)
                return
            except TopologyError as error:
                logger.error("%s", error)
            except (psycopg.Error, UnavailableError) as error:
                logger.warning("The shards cannot be prepared yet: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(5.0, pause_s * 2)

    async def close(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait({self._preparing})
        await self.shards.close()
        if self.cache is not None:
            await self.cache.close()


def _connect(settings: Redis) -> "redis.asyncio.Redis":
    return redis.asyncio.Redis(
        host=settings.address.host,
        port=settings.address.port,
        username=settings.user,
        password=settings.password,
        decode_responses=True,
        socket_connect_timeout=cache.TIMEOUT_S,
        socket_timeout=cache.TIMEOUT_S,
        retry=Retry(NoBackoff(), 1),
    )


def create_app(settings: Callable[[], Settings] = read_settings) -> FastAPI:
    """Make the app. ``settings`` is read when it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        read = settings()
        configure_logging(read.log_level)
        app.state.parts = parts = Parts(read)
        await parts.open()
        try:
            yield
        finally:
            await parts.close()

    app = FastAPI(title="Users on shards", lifespan=lifespan)
    problems.install(app)
    app.add_exception_handler(UserExistsError, _on_duplicate)
    _add_users(app)
    _add_shards(app)
    return app


def configure_logging(level: str) -> None:
    """Log as the document says: time, level in brackets, message."""
    logging.basicConfig(format="%(asctime)s [%(levelname)s] %(message)s")
    logging.getLogger("consistent_hashing").setLevel(level)


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


UsedParts = Annotated[Parts, Depends(_parts)]


def _on_duplicate(_: Request, __: Exception) -> JSONResponse:
    return problems.problem(DUPLICATE_STATUS, "A user with this user_id exists already.")


def _region_needed(parts: Parts, region: str | None) -> str | None:
    """Give the region if it is part of the key; otherwise it does not matter."""
    if parts.settings.first.shard_by is not ShardBy.REGION:
        return None
    if region is None:
        raise RequestValidationError(
            [{"loc": ("query", "region"), "msg": "is needed: the shards are chosen by region", "type": "missing"}]
        )
    return region


def _add_users(app: FastAPI) -> None:
    # Routes are added with and without the slash at the end, which the document's own examples mix.
    @app.post("/users/", response_model=UserResponse)
    @app.post("/users", response_model=UserResponse, include_in_schema=False)
    async def create_user(given: UserCreate, parts: UsedParts) -> Response:
        user = User(**given.model_dump())
        logger.debug("Received request to create user: %s", asdict(user))
        if parts.cache is not None:
            await parts.cache.before_write(user.user_id, _region_needed(parts, user.region))
        await parts.store.create(user)
        return JSONResponse(asdict(user))

    @app.get("/users/", response_model=RegionResponse, include_in_schema=False)
    @app.get("/users", response_model=RegionResponse)
    async def list_region(
        parts: UsedParts,
        region: Annotated[Region, Query()],
        after: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = PAGE,
    ) -> Response:
        answers = await parts.store.in_region(region, after, limit)
        body = {
            "users": [asdict(user) for user in answers.items],
            "complete": answers.complete,
            "answered": sorted(answers.of_shards),
            "failed": answers.failed,
        }
        return JSONResponse(body)

    @app.get("/users/{user_id}", response_model=UserResponse)
    async def get_user(user_id: UserId, parts: UsedParts, region: Annotated[Region | None, Query()] = None) -> Response:
        region = _region_needed(parts, region)
        if parts.cache is not None and (cached := await parts.cache.find(user_id, region)) is not None:
            return JSONResponse(asdict(cached), headers={"X-Cache": "hit"})
        read_at = time.monotonic()
        user = await parts.store.find(user_id, region)
        if user is None:
            logger.warning("User %d not found", user_id)
            raise HTTPException(404, f"There is no user {user_id}.")
        if parts.cache is not None:
            await parts.cache.store(user, region, read_at)
        return JSONResponse(asdict(user))

    @app.put("/users/{user_id}", response_model=UserResponse)
    async def replace_user(user_id: UserId, given: UserValues, parts: UsedParts) -> Response:
        user = User(user_id=user_id, **given.model_dump())
        if parts.cache is not None:
            await parts.cache.before_write(user_id, _region_needed(parts, user.region))
        if not await parts.store.replace(user):
            raise HTTPException(404, f"There is no user {user_id}.")
        return JSONResponse(asdict(user))

    @app.delete("/users/{user_id}", status_code=204)
    async def remove_user(
        user_id: UserId, parts: UsedParts, region: Annotated[Region | None, Query()] = None
    ) -> Response:
        region = _region_needed(parts, region)
        if parts.cache is not None:
            await parts.cache.before_write(user_id, region)
        if not await parts.store.remove(user_id, region):
            raise HTTPException(404, f"There is no user {user_id}.")
        return Response(status_code=204)


def _add_shards(app: FastAPI) -> None:
    @app.get("/shards")
    async def show_topology(parts: UsedParts) -> dict[str, Any]:
        topology = await parts.shards.topology()
        return {
            "version": topology.version,
            "shard_by": topology.shard_by,
            "nodes": topology.nodes,
            "becoming": topology.becoming,
            "lost": topology.lost,
            "hash_name": topology.hash_name,
            "virtual_nodes": topology.virtual_nodes,
        }

    @app.get("/shards/distribution")
    async def show_distribution(parts: UsedParts) -> list[ShardResponse]:
        return [ShardResponse(**asdict(one)) for one in await count_users(parts.shards, parts.store)]

    @app.get("/shards/distribution.svg", response_class=Response)
    async def draw_distribution(parts: UsedParts) -> Response:
        return Response(draw_svg(await count_users(parts.shards, parts.store)), media_type="image/svg+xml")

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health(parts: UsedParts) -> JSONResponse:
        """200 while every shard answers. The cache is named, and not needed."""
        states: dict[str, dict[str, str]] = {}
        try:
            answers = await parts.store.versions()
            states |= {shard: {"status": "ok"} for shard in sorted(answers.of_shards)}
            states |= {shard: {"status": "down", "detail": reason} for shard, reason in answers.failed.items()}
        except UnavailableError as error:
            states["shards"] = {"status": "down", "detail": error.detail}
        needed = tuple(states)
        if parts.cache is not None:
            missing = {"status": "down", "detail": "does not answer; users are read from their shards"}
            states["cache"] = {"status": "ok"} if await parts.cache.ping() else missing
        return answer(states, needed)
