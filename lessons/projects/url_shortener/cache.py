"""The targets of codes, in Redis. Links never change, so an entry is never wrong."""

from typing import cast

from .redis_link import RedisAwayError, RedisLink

TTL_S = 3600


class Cache:
    """The targets of codes, for an hour."""

    def __init__(self, link: RedisLink | None) -> None:
        self._link = link

    async def get(self, code: str) -> str | None:
        """Give the target, if Redis has it."""
        if (link := self._link) is None:
            return None
        try:
            return cast("str | None", await link.call(lambda: link.client.get(f"{link.prefix}url:{code}")))
        except RedisAwayError:
            return None

    async def put(self, code: str, url: str) -> None:
        if (link := self._link) is None:
            return
        try:
            await link.call(lambda: link.client.set(f"{link.prefix}url:{code}", url, ex=TTL_S))
        except RedisAwayError:
            return
