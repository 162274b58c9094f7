"""Redis, as a server that may be away: while it is, nobody waits for it, and the log says so once."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from read_write_split.settings import NAME, Server

_TIMEOUT_S = 0.5
_PAUSE_S = 1.0
_CONNECTIONS = 20

logger = logging.getLogger("fastapi_app")
_T = TypeVar("_T")


class RedisAwayError(Exception):
    """Redis does not answer, or refuses the command."""


class RedisLink:
    """The connections to Redis."""

    def __init__(self, server: Server) -> None:
        pool = redis.asyncio.BlockingConnectionPool(
            host=server.address.host,
            port=server.address.port,
            username=NAME,
            password=server.password,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            # The pause below is the retry.
            retry=Retry(NoBackoff(), 0),
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT_S,
        )
        self.client = redis.asyncio.Redis.from_pool(pool)
        self._scripts: dict[str, AsyncScript] = {}
        self._away_until = 0.0
        self.away: str | None = None
        """Why the last call failed; None if it did not."""

    async def close(self) -> None:
        await self.client.aclose()

    async def script(self, text: str, keys: Sequence[str], values: Sequence[bytes | str | int]) -> Any:
        """Run a script in Lua, which is sent once. Raises RedisAwayError."""
        script = self._scripts.get(text)
        if script is None:
            script = self._scripts[text] = self.client.register_script(text)
        return await self.call(lambda: script(keys, values))

    async def ask(self) -> None:
        """Find out whether Redis answers. Raises RedisAwayError."""
        await self.call(lambda: self.client.exists(f"{NAME}:any"))

    async def call(self, command: Callable[[], Awaitable[_T]]) -> _T:
        """Run a command. Raises RedisAwayError at once for a second after a failure."""
        if self.away is not None and time.monotonic() < self._away_until:
            raise RedisAwayError(self.away)
        try:
            answer = await command()
        except (RedisError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if self.away is None:
                logger.warning(
                    "Redis fails, so the cache is off and no request is limited until it answers: %s", reason
                )
            self.away, self._away_until = reason, time.monotonic() + _PAUSE_S
            raise RedisAwayError(reason) from error
        if self.away is not None:
            self.away = None
            logger.info("Redis answers again: the cache and the rate limit are on")
        return answer
