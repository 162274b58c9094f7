"""Users in Redis, which may be away at any time: the service then works without.

A value is stored only if its key is free (``SET NX``), and before a write, the key is taken by an empty value that
lasts longer than any request. So a reader that was slower than a writer cannot store what it read before, and a
writer that is killed leaves nothing that is wrong: its user is merely not cached for a while. One case is left: if
Redis cannot be reached when a user is written, and had the user before, it gives the old values until they expire.
"""

import json
import logging
import time
from dataclasses import asdict

import redis.asyncio
from redis.exceptions import RedisError

from consistent_hashing.users import User

LIFETIME_S = 60
WRITING_S = 15
"""How long a user is not cached after a write: more than a request can take."""
PAUSE_S = 5
"""How long Redis is not asked after it has failed."""
TIMEOUT_S = 0.5
logger = logging.getLogger(__name__)


class UserCache:
    """Users by id (and region, where it decides the shard), under keys that begin with ``prefix``."""

    def __init__(self, client: "redis.asyncio.Redis", prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._asked_again_at = 0.0

    def _key(self, user_id: int, region: str | None) -> str:
        return f"{self._prefix}user:{user_id}" + (f":{region}" if region else "")

    async def find(self, user_id: int, region: str | None) -> User | None:
        if not self.answers:
            return None
        try:
            value = await self._client.get(self._key(user_id, region))
        except (RedisError, OSError) as error:
            self._pause(error)
            return None
        return User(**json.loads(value)) if value else None

    async def store(self, user: User, region: str | None, read_at: float) -> None:
        """Keep what was read at ``read_at`` (of time.monotonic), unless the user is being written."""
        if not self.answers or time.monotonic() - read_at > WRITING_S / 2:
            return
        try:
            key = self._key(user.user_id, region)
            await self._client.set(key, json.dumps(asdict(user)), nx=True, ex=LIFETIME_S)
        except (RedisError, OSError) as error:
            self._pause(error)

    async def before_write(self, user_id: int, region: str | None) -> None:
        """Forget a user, and keep it out until the write has ended. Tried during a pause too: Redis may be back."""
        try:
            await self._client.set(self._key(user_id, region), "", ex=WRITING_S)
        except (RedisError, OSError) as error:
            self._pause(error)

    @property
    def answers(self) -> bool:
        """Whether Redis answered when it was last asked; after a pause, it is asked again."""
        return time.monotonic() >= self._asked_again_at

    def _pause(self, error: Exception) -> None:
        logger.warning("Redis does not answer, so users are read from their shards: %s", error)
        self._asked_again_at = time.monotonic() + PAUSE_S

    async def ping(self) -> bool:
        try:
            return bool(await self._client.ping())
        except (RedisError, OSError):
            return False

    async def close(self) -> None:
        await self._client.aclose()
