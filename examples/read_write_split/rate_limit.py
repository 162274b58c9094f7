"""A limit of requests for each client: a sliding window, in Redis."""

import hashlib
import math
import secrets
from dataclasses import dataclass
from typing import cast

from read_write_split.redis_link import RedisAwayError, RedisLink
from read_write_split.settings import NAME

# The clock is that of Redis, one for all instances. A member is random, so two requests of the same microsecond count
# as two; a request that is refused is not added.
_TAKE = """
local time = redis.call('TIME')
local now, window, limit = time[1] * 1000000 + time[2], tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))
local taken = redis.call('ZCARD', KEYS[1])
if taken >= limit then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return {-1, string.format('%.0f', tonumber(oldest[2]) + window - now)}
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
return {limit - taken - 1, '0'}
"""


@dataclass(frozen=True)
class Allowance:
    """How many requests are left; None where nothing is counted. ``retry_after_s`` is above 0 for a refused one."""

    remaining: int | None
    retry_after_s: int = 0


class RateLimit:
    """At most ``limit`` requests of a client within any ``window_s``; open without Redis, or with a limit of 0."""

    def __init__(self, link: RedisLink | None, limit: int, window_s: int) -> None:
        self._link = link if limit else None
        self._limit = limit
        self._window_us = window_s * 1_000_000

    async def take(self, client: str) -> Allowance:
        """Count a request of this client."""
        if self._link is None:
            return Allowance(None)
        # A name may be long, or contain anything.
        key = f"{NAME}:rate:{hashlib.sha256(client.encode()).hexdigest()[:32]}"
        values = (self._window_us, self._limit, secrets.token_hex(8))
        try:
            remaining, wait_us = cast("tuple[int, bytes]", await self._link.script(_TAKE, [key], values))
        except RedisAwayError:
            return Allowance(None)
        if remaining < 0:
            return Allowance(0, max(1, math.ceil(int(wait_us) / 1_000_000)))
        return Allowance(remaining)
