"""Redis, as a server that may be away: it is used by the cache, the live counters and the limit of creations.

Without it, redirects read the database, the live counters are unknown, and each process counts creations itself.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

_TIMEOUT_S = 1.0
_PAUSE_S = 1.0
_CONNECTIONS = 20

logger = logging.getLogger("url_shortener")
_T = TypeVar("_T")


class RedisAwayError(Exception):
    """Redis does not answer."""


class RedisLink:
    """The connections to Redis, with a prefix for all keys. While Redis is away, one request a second tries it."""

    def __init__(self, url: str, prefix: str) -> None:
        pool: redis.asyncio.BlockingConnectionPool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            # The pause is the retry.
            retry=Retry(NoBackoff(), 0),
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT_S,
            decode_responses=True,
        )
        self.client = redis.asyncio.Redis.from_pool(pool)
        self.prefix = prefix
        self.away: str | None = None
        """Why the last call failed; None if it did not."""
        self._try_at = 0.0

    async def close(self) -> None:
        await self.client.aclose()

    async def call(self, command: Callable[[], Awaitable[_T]]) -> _T:
        """Run a command. Raises RedisAwayError, at once for a second after a failure."""
        if self.away is not None:
            now = time.monotonic()
            if now < self._try_at:
                raise RedisAwayError(self.away)
            self._try_at = now + _PAUSE_S + _TIMEOUT_S
        try:
            answer = await command()
        except (RedisError, OSError) as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            if self.away is None:
                logger.warning("Redis is away, so the database serves all redirects until it answers: %s", reason)
            self.away, self._try_at = reason, time.monotonic() + _PAUSE_S
            raise RedisAwayError(reason) from error
        if self.away is not None:
            self.away = None
            logger.warning("Redis answers again.")
        return answer
