"""The application: what is opened when it starts, and closed when it ends."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from service_kit import problems
from service_kit.cluster import Cluster

from read_write_split import health, logs, settings, users
from read_write_split.activity import ActivityLog
from read_write_split.database import Database
from read_write_split.dependencies import Services
from read_write_split.list_cache import ListCache
from read_write_split.metrics import Metrics
from read_write_split.middleware import Observation
from read_write_split.rate_limit import RateLimit
from read_write_split.redis_link import RedisLink

logger = logging.getLogger("fastapi_app")


def create_app() -> FastAPI:
    """Build the application. It reads its settings, and connects, when it starts."""
    app = FastAPI(title="Read/write split", lifespan=_lifespan)
    app.state.metrics = Metrics()
    problems.install(app)
    app.add_middleware(Observation, metrics=app.state.metrics)
    app.include_router(users.router)
    app.include_router(health.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    handlers = logs.configure(settings.read_log(os.environ))
    try:
        logger.info("Starting FastAPI application")
        async with AsyncExitStack() as opened:
            try:
                app.state.services = await _open(opened, settings.read(Cluster()), app.state.metrics)
            except Exception as error:
                logger.error("The application cannot start: %s", error)
                raise
            yield
            logger.info("Shutting down FastAPI application")
        logger.info("Database connection pools closed")
    finally:
        logs.stop(handlers)


async def _open(opened: AsyncExitStack, given: settings.Settings, metrics: Metrics) -> Services:
    redis = RedisLink(given.redis) if given.redis else None
    if redis is not None:
        opened.push_async_callback(redis.close)
    cache = ListCache(redis, given.cache_ttl_s)
    opened.push_async_callback(cache.close)
    activity = ActivityLog(given.cassandra, metrics)
    database = Database(given, on_new_timeline=cache.invalidate)
    # Also where it opens only half.
    opened.push_async_callback(database.close)
    await database.open()
    logger.info("Database connection pools opened")
    if given.jwt_key is None:
        logger.warning("Authentication is off: AUTH=on makes every request for users need a token")
    activity.open()
    opened.push_async_callback(activity.close)
    return Services(given, database, redis, cache, RateLimit(redis, given.rate_limit, given.rate_window_s), activity)
