"""Clicks of the last minutes, counted in Redis as they happen."""

import time
from collections import Counter

from .redis_link import RedisAwayError, RedisLink

LIVE_MINUTES = 5
_TTL_S = 3600
_ALL = "all"


class LiveCounters:
    """Clicks by minute, as they happen: for display only. The history in the database is what counts.

    They are added up in memory and sent a few times a second, so a killed process takes its last ones with it.
    """

    def __init__(self, link: RedisLink | None) -> None:
        self._link = link
        self._unsent: Counter[tuple[int, str]] = Counter()

    def add(self, code: str, clicked_at: int) -> None:
        if self._link is not None:
            minute = clicked_at // 60_000
            self._unsent[minute, code] += 1
            self._unsent[minute, _ALL] += 1

    async def send(self) -> None:
        if (link := self._link) is None or not self._unsent:
            return
        unsent, self._unsent = self._unsent, Counter()
        pipeline = link.client.pipeline(transaction=False)
        for (minute, code), clicks in unsent.items():
            pipeline.hincrby(f"{link.prefix}live:{minute}", code, clicks)
        for minute in {minute for minute, _ in unsent}:
            pipeline.expire(f"{link.prefix}live:{minute}", _TTL_S)
        try:
            await link.call(pipeline.execute)
        except RedisAwayError:
            return

    async def last_minutes(self, code: str = _ALL) -> int | None:
        """Count the clicks of this minute and the four before; None if Redis is away."""
        if (link := self._link) is None:
            return None
        now = int(time.time() // 60)
        pipeline = link.client.pipeline(transaction=False)
        for minute in range(now - LIVE_MINUTES + 1, now + 1):
            pipeline.hget(f"{link.prefix}live:{minute}", code)
        try:
            return sum(int(found or 0) for found in await link.call(pipeline.execute))
        except RedisAwayError:
            return None
