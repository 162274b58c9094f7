"""Links and clicks: what the service does, apart from HTTP."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from .cache import Cache
from .clicks import Click, ClickLog
from .codes import is_code, random_code
from .collector import Collector
from .countries import TABLE, read_countries
from .databases import PostgresStore, SqliteStore
from .live import LiveCounters
from .rate_limit import RateLimit
from .redis_link import RedisLink
from .settings import Settings
from .store import Link, Store, StoreAwayError

_ATTEMPTS = 10
_LIVE_EVERY_S = 0.5
_LAST_COLLECTION_S = 5.0

logger = logging.getLogger("url_shortener")


class NoFreeCodeError(Exception):
    """Ten random codes were all taken, which means that the source of codes is broken."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Shortener:
    """The service, on its database and, if there is one, its Redis."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        log: ClickLog,
        live: LiveCounters,
        limit: RateLimit,
        redis: RedisLink | None,
        collector: Collector,
        new_code: Callable[[], str] = random_code,
    ) -> None:
        self.store = store
        self.live = live
        self.limit = limit
        self.redis = redis
        self.log = log
        self.collector = collector
        self.lost_clicks = 0
        """Redirects that were answered although their click could not be written, as on a full disk."""
        self._cache = cache
        self._new_code = new_code

    async def shorten(self, url: str) -> Link:
        """Store a link under a new code. Raises StoreAwayError and NoFreeCodeError."""
        for _ in range(_ATTEMPTS):
            link = Link(self._new_code(), url, now_ms())
            # The primary key decides. A code that is taken is never given to a second address.
            if await self.store.add(link):
                await self._cache.put(link.code, url)
                return link
        raise NoFreeCodeError

    async def target(self, code: str) -> str | None:
        """Find where a code leads: in the cache, then in the database. Raises StoreAwayError."""
        if not is_code(code):
            return None
        if url := await self._cache.get(code):
            return url
        if link := await self.store.find(code):
            await self._cache.put(code, link.original_url)
            return link.original_url
        return None

    async def click(self, code: str, referrer: str, ip: str) -> None:
        """Write a click into the queue, which must be done before the redirect is answered."""
        click = Click(code, now_ms(), referrer, ip)
        try:
            await self.log.append(click)
        except OSError as error:
            # The visitor matters more than the statistics.
            if not self.lost_clicks:
                logger.error("Clicks are lost, because %s cannot be written: %s", self.log.path, error.strerror)
            self.lost_clicks += 1
        self.live.add(code, click.clicked_at)


async def open_store(settings: Settings) -> Store:
    """Open the database. Raises StoreAwayError."""
    if settings.database:
        return await PostgresStore.open(settings.database, settings.schema)
    return await SqliteStore.open(Path(settings.data) / "url_shortener.db")


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Shortener]:
    """Run the service. At the end, the clicks that are in the queue are stored; those that cannot be stay in it."""
    countries = read_countries(Path(settings.ip_ranges) if settings.ip_ranges else TABLE)
    store = await open_store(settings)
    installation = await store.installation()
    # One Redis and one folder may serve several databases, whose codes have nothing to do with each other.
    redis = RedisLink(settings.redis, f"url_shortener:{installation}:") if settings.redis else None
    folder = Path(settings.data) / f"clicks-{installation}"
    log = ClickLog(folder, sync=settings.sync)
    live = LiveCounters(redis)
    limit = RateLimit(redis, settings.limit, settings.window_s)
    collector = Collector(log, folder, store, countries)
    tasks = [asyncio.create_task(collector.run(settings.collect_every_s)), asyncio.create_task(_send(live))]
    try:
        yield Shortener(store, Cache(redis), log, live, limit, redis, collector)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(StoreAwayError, OSError, TimeoutError):
            async with asyncio.timeout(_LAST_COLLECTION_S):
                await collector.collect_own()
                await live.send()
        log.close()
        if redis is not None:
            await redis.close()
        with suppress(StoreAwayError):
            await store.close()


async def _send(live: LiveCounters) -> None:
    while True:
        await live.send()
        await asyncio.sleep(_LIVE_EVERY_S)
