"""How many links a client may create: a sliding window, in Redis."""

import time
from collections import deque
from collections.abc import Awaitable
from ipaddress import IPv6Address, ip_address
from math import ceil
from secrets import token_hex
from typing import cast

from .redis_link import RedisAwayError, RedisLink

# The clock is that of Redis, one for all processes. A member is random, so two requests of the same microsecond count
# as two. A refused request is not counted. A script runs alone, so no two requests get the last place.
_TAKE = """
local time = redis.call('TIME')
local now, window = time[1] * 1000000 + time[2], tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return string.format('%.0f', oldest[2] + window - now)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
return '0'
"""


class RateLimit:
    """At most ``limit`` creations of a client in any ``window_s``; a limit of 0 allows all."""

    def __init__(self, link: RedisLink | None, limit: int, window_s: float) -> None:
        self._link = link
        self._limit = limit
        self._window_s = window_s
        self._here: dict[str, deque[float]] = {}

    async def take(self, ip: str) -> int:
        """Count a creation. Returns 0, or after how many seconds the client may try again."""
        if not self._limit:
            return 0
        client = client_of(ip)
        try:
            return ceil(await self._take_in_redis(client))
        except RedisAwayError:
            return ceil(self._take_here(client, time.monotonic()))

    async def _take_in_redis(self, client: str) -> float:
        if (link := self._link) is None:
            raise RedisAwayError("no Redis is used")
        key = f"{link.prefix}ratelimit:{client}"
        values = (self._limit, round(self._window_s * 1_000_000), token_hex(8))
        wait_us = await link.call(lambda: cast("Awaitable[str]", link.client.eval(_TAKE, 1, key, *map(str, values))))
        return int(wait_us) / 1_000_000

    def _take_here(self, client: str, now: float) -> float:
        """Count in this process alone, so that a missing Redis does not remove the limit."""
        for other in [name for name, times in self._here.items() if times[-1] <= now - self._window_s]:
            del self._here[other]
        times = self._here.setdefault(client, deque())
        while times and times[0] <= now - self._window_s:
            times.popleft()
        if len(times) >= self._limit:
            return times[0] + self._window_s - now
        times.append(now)
        return 0.0


def client_of(ip: str) -> str:
    """Give whom a limit counts: an IPv4 address, or the /64 of an IPv6 address, which is one customer's."""
    try:
        address = ip_address(ip)
    except ValueError:
        return "unknown"
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64)) + "/64"
