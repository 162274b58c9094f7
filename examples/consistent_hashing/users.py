"""Users: read, written and counted on the shards where the topology has them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import DictRow

from consistent_hashing.distribution import ShardCount, report
from consistent_hashing.moving import move_users
from consistent_hashing.scatter import Answers, Scatter
from consistent_hashing.shards import Shards
from consistent_hashing.topology import ShardBy, Topology, TopologyError

logger = logging.getLogger(__name__)

FIND: LiteralString = "SELECT version, user_id, name, region, email FROM topology LEFT JOIN users ON users.user_id = %s"
_FIND_IN_REGION: LiteralString = FIND + " AND users.region = %s"
_IN_REGION: LiteralString = (
    "SELECT version, user_id, name, region, email FROM topology LEFT JOIN LATERAL"
    " (SELECT * FROM users WHERE region = %s AND user_id > %s ORDER BY user_id LIMIT %s) AS found ON true"
)

_REGIONS = ("US", "EU", "APAC")
_FILL: LiteralString = (
    "INSERT INTO users (user_id, name, region, email)"
    " SELECT user_id, 'user ' || user_id, (%s::text[])[1 + user_id %% 3], user_id || '@example.com'"
    " FROM unnest(%s::bigint[]) AS user_id ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True)
class User:
    """A user, as the service takes and gives it."""

    user_id: int
    name: str
    region: str
    email: str


class UserExistsError(Exception):
    """The shard has a user with this id."""


class UserStore:
    """The users of all shards."""

    def __init__(self, shards: Shards, scatter: Scatter) -> None:
        self._shards = shards
        self._scatter = scatter

    async def create(self, user: User) -> None:
        """Store a new user. Raises UserExistsError."""

        async def work(topology: Topology) -> None:
            key = topology.key(user.user_id, user.region)
            shard = await self._ready_to_write(topology, user.user_id, key)
            async with self._shards.connection(shard, version=topology.version) as connection:
                try:
                    async with self._shards.fence(connection, shard, topology.version):
                        await connection.execute(
                            "INSERT INTO users (user_id, name, region, email) VALUES (%s, %s, %s, %s)",
                            [user.user_id, user.name, user.region, user.email],
                        )
                        logger.debug("Added user %d to session for shard %s", user.user_id, shard)
                except psycopg.errors.UniqueViolation as error:
                    logger.error("Failed to create user %d in shard %s: %s", user.user_id, shard, _one_line(error))
                    raise UserExistsError from error
                logger.info("Committed user %d to shard %s", user.user_id, shard)

        await self._shards.following(work)

    async def fill(self, number: int) -> None:
        """Store users 1 to ``number``, thousands at a time; those that exist stay as they are.

        Raises TopologyError during a migration, where each user would have to be looked up first.
        """

        async def work(topology: Topology) -> None:
            if topology.becoming is not None:
                raise TopologyError("A migration is under way. Finish it first: run its command again.")
            users: dict[str, list[int]] = {}
            for user_id in range(1, number + 1):
                owner = topology.route(topology.key(user_id, _REGIONS[user_id % 3])).owner
                users.setdefault(owner, []).append(user_id)
            for shard, ids in users.items():
                for first in range(0, len(ids), 5000):
                    async with self._shards.fenced(shard, topology.version) as connection:
                        await connection.execute(_FILL, [list(_REGIONS), ids[first : first + 5000]])

        await work(await self._shards.topology())

    async def find(self, user_id: int, region: str | None = None) -> User | None:
        """Give a user; ``region`` is needed where it decides the shard."""

        async def work(topology: Topology) -> User | None:
            for shard in topology.route(topology.key(user_id, region)).reading:
                if topology.shard_by is ShardBy.REGION:
                    rows = await self._shards.read(shard, topology.version, _FIND_IN_REGION, [user_id, region])
                else:
                    rows = await self._shards.read(shard, topology.version, FIND, [user_id])
                if rows[0]["user_id"] is not None:
                    return _user(rows[0])
            return None

        return await self._shards.following(work)

    async def replace(self, user: User) -> bool:
        """Store other values for a user; give whether there is one."""

        async def work(topology: Topology) -> bool:
            query: LiteralString = "UPDATE users SET name = %s, region = %s, email = %s WHERE user_id = %s"
            values = [user.name, user.region, user.email, user.user_id]
            return await self._write(topology, user.user_id, user.region, query, values)

        return await self._shards.following(work)

    async def remove(self, user_id: int, region: str | None = None) -> bool:
        """Delete a user; give whether there was one."""

        async def work(topology: Topology) -> bool:
            return await self._write(topology, user_id, region, "DELETE FROM users WHERE user_id = %s", [user_id])

        return await self._shards.following(work)

    async def _write(
        self, topology: Topology, user_id: int, region: str | None, query: LiteralString, values: Sequence[Any]
    ) -> bool:
        if topology.shard_by is ShardBy.REGION:
            query, values = query + " AND region = %s", [*values, region]
        shard = await self._ready_to_write(topology, user_id, topology.key(user_id, region))
        async with self._shards.fenced(shard, topology.version) as connection:
            return (await connection.execute(query, values)).rowcount == 1

    async def _ready_to_write(self, topology: Topology, user_id: int, key: str) -> str:
        """Give the shard to write to; a row that a migration has not moved yet is moved first."""
        route = topology.route(key)
        if route.target is not None:
            rows = await self._shards.read(route.owner, topology.version, FIND, [user_id])
            # What has left the old shard never returns, so nothing is locked to find that out.
            if rows[0]["user_id"] is not None:
                await move_users(self._shards, topology, route, [user_id])
        return route.final

    async def in_region(self, region: str, after: int, limit: int) -> Answers[User]:
        """Give the first ``limit`` users of a region with ids above ``after``, from every shard that may have one."""

        async def work(topology: Topology) -> Answers[User]:
            async def ask(shard: str) -> Sequence[User]:
                rows = await self._shards.read(shard, topology.version, _IN_REGION, [region, after, limit])
                return [_user(row) for row in rows if row["user_id"] is not None and _belongs(topology, row, shard)]

            by_region = topology.shard_by is ShardBy.REGION
            waves = [(one,) for one in topology.route(region).reading] if by_region else topology.waves
            answers = await self._scatter.gather(waves, ask)
            # A user that moved between the two waves is in both; the second is the later look.
            found = {user.user_id: user for users in answers.of_shards.values() for user in users}
            return answers.with_items([found[user_id] for user_id in sorted(found)][:limit])

        return await self._shards.following(work)

    async def counts(self) -> Answers[int]:
        """Count the users in each shard; during a migration, one on its way may count in both."""
        return await self._ask_all("SELECT version, (SELECT count(*) FROM users) AS value FROM topology")

    async def versions(self) -> Answers[int]:
        """Ask every shard whether it answers."""
        return await self._ask_all("SELECT version, version AS value FROM topology")

    async def _ask_all(self, query: LiteralString) -> Answers[int]:
        async def work(topology: Topology) -> Answers[int]:
            async def ask(shard: str) -> Sequence[int]:
                return [(await self._shards.read(shard, topology.version, query, []))[0]["value"]]

            return await self._scatter.gather([topology.shards], ask)

        return await self._shards.following(work)


async def count_users(shards: Shards, store: UserStore) -> list[ShardCount]:
    """Count the users of each shard, beside the share of the ring that it owns."""
    answers = await store.counts()
    topology: Topology = await shards.topology()
    ring = topology.next_ring or topology.ring
    shares = {shard: ring.shares().get(shard, 0.0) for shard in topology.shards}
    return report({shard: counted[0] for shard, counted in answers.of_shards.items()}, shares)


def _belongs(topology: Topology, row: DictRow, shard: str) -> bool:
    return shard in topology.route(topology.key(row["user_id"], row["region"])).reading


def _user(row: DictRow) -> User:
    return User(row["user_id"], row["name"], row["region"], row["email"])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
