"""The table of users on Citus, and what Citus says about its shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row
from psycopg_pool import AsyncConnectionPool
from service_kit.cluster import Address, Cluster

SHARD_COUNT = 4
ROLE = "example_users"
FIRST_USERS = (("Alice", "alice@example.com", date(2025, 1, 15)), ("Bob", "bob@example.com", date(2025, 2, 10)))
ACQUIRE_S = 3.0
_STATEMENT_TIMEOUT_MS = 4000

SHARD_OF_USER = """\
SELECT shard.shardid, shard.shardminvalue, shard.shardmaxvalue, node.nodename, node.nodeport
FROM pg_dist_shard AS shard
JOIN pg_dist_placement AS placement ON placement.shardid = shard.shardid
JOIN pg_dist_node AS node ON node.groupid = placement.groupid AND node.noderole = 'primary'
WHERE shard.shardid = get_shard_id_for_distribution_column('example_users.users', {user_id})"""
"""Which shard holds a user, and on which node, as a statement that other roles can run too."""

# One row for each shard, with five users by name. %1$s is the shard's table.
_IN_EACH_SHARD = """\
SELECT json_build_object('users', count(*), 'first', (
    SELECT json_agg(json_build_object('user_id', user_id, 'name', name))
    FROM (SELECT user_id, name FROM %1$s ORDER BY user_id LIMIT 5) AS few))
FROM %1$s"""


@dataclass(frozen=True)
class Settings:
    """Where the coordinator is, and who logs in."""

    coordinator: Address
    database: str
    password: str

    @classmethod
    def of(cls, cluster: Cluster) -> "Settings":
        """Read them. Raises NotConfiguredError if one is missing."""
        return cls(
            cluster.address("CITUS_COORDINATOR", "CITUS_COORDINATOR_PORT"),
            cluster.value("CITUS_DATABASE", "POSTGRES_DB"),
            cluster.secret(f"{ROLE}_password"),
        )


@dataclass(frozen=True)
class User:
    """A user: a row of the table, and the answer to a request for it."""

    user_id: int
    name: str
    email: str
    created_at: date


@dataclass(frozen=True)
class Shard:
    """Where a shard is, and the range of hashes that it holds, both ends included."""

    shardid: int
    shardminvalue: str
    shardmaxvalue: str
    nodename: str
    nodeport: int


@dataclass(frozen=True)
class ShardUsers:
    """A shard and the users in it; ``users`` is None while the shard cannot be read."""

    shard: Shard
    users: int | None
    first: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Move:
    """A move of a running rebalance. ``progress`` is ``waiting``, ``moving`` or ``moved``."""

    shardid: int
    source: str
    target: str
    progress: str
    shard_size: int


def pool_of(settings: Settings) -> AsyncConnectionPool[AsyncConnection[Any]]:
    """Make a pool of connections that is not open yet."""
    return AsyncConnectionPool(
        kwargs={
            "host": settings.coordinator.host,
            "port": settings.coordinator.port,
            "dbname": settings.database,
            "user": ROLE,
            "password": settings.password,
            "application_name": "example-users",
            "connect_timeout": 3,
            "tcp_user_timeout": 5000,
            "options": f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}",
            # One statement for each request: a transaction around it would cost two more round trips.
            "autocommit": True,
        },
        min_size=1,
        max_size=10,
        timeout=ACQUIRE_S,
        reconnect_timeout=30,
        open=False,
        name="coordinator",
    )


class Users:
    """The table, through a pool."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Any]]) -> None:
        self._pool = pool

    async def silence(self) -> str | None:
        """Say why the coordinator does not answer; None if it does."""
        try:
            async with self._pool.connection() as conn:
                await conn.execute("SELECT 1")
        except psycopg.OperationalError as error:
            return (str(error).splitlines() or [type(error).__name__])[0]
        return None

    async def make(self) -> None:
        """Create the table with its first users, unless it exists. Several processes may do so at once."""
        async with self._pool.connection() as conn, conn.transaction():
            await conn.execute("SET LOCAL statement_timeout = '60s'")
            await conn.execute("SELECT pg_advisory_xact_lock(hashtext('example_users'))")
            found = await (await conn.execute("SELECT to_regclass('users')")).fetchone()
            if found and found[0]:
                return
            await conn.execute(
                "CREATE TABLE users (user_id SERIAL PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, "
                "created_at DATE NOT NULL DEFAULT CURRENT_DATE)"
            )
            # Not colocated with tables of others: they would move together.
            await conn.execute(
                "SELECT create_distributed_table('users', 'user_id', shard_count => %s, colocate_with => 'none')",
                (SHARD_COUNT,),
            )
            for row in FIRST_USERS:
                await conn.execute("INSERT INTO users (name, email, created_at) VALUES (%s, %s, %s)", row)

    async def get(self, user_id: int) -> User | None:
        """Give a user: one shard is asked."""
        async with self._pool.connection() as conn:
            cursor = conn.cursor(row_factory=class_row(User))
            await cursor.execute("SELECT user_id, name, email, created_at FROM users WHERE user_id = %s", (user_id,))
            return await cursor.fetchone()

    async def create(self, name: str, email: str) -> User:
        """Insert a user."""
        async with self._pool.connection() as conn:
            cursor = conn.cursor(row_factory=class_row(User))
            await cursor.execute(
                "INSERT INTO users (name, email) VALUES (%s, %s) RETURNING user_id, name, email, created_at",
                (name, email),
            )
            created = await cursor.fetchone()
            assert created is not None  # noqa: S101
            return created

    async def shard_of(self, user_id: int) -> Shard | None:
        """Say which shard a user is in, or would be in."""
        async with self._pool.connection() as conn:
            cursor = conn.cursor(row_factory=class_row(Shard))
            await cursor.execute(SHARD_OF_USER.format(user_id="%s").encode(), (user_id,))
            return await cursor.fetchone()

    async def shards(self) -> list[ShardUsers]:
        """Give every shard with the number of its users and the first of them, in the order of their hashes."""
        async with self._pool.connection() as conn:
            cursor = conn.cursor(row_factory=dict_row)
            await cursor.execute(
                """\
                SELECT shard.shardid, shard.shardminvalue, shard.shardmaxvalue, node.nodename, node.nodeport,
                       CASE WHEN asked.success THEN asked.result::json END AS found
                FROM pg_dist_shard AS shard
                JOIN pg_dist_placement AS placement ON placement.shardid = shard.shardid
                JOIN pg_dist_node AS node ON node.groupid = placement.groupid AND node.noderole = 'primary'
                LEFT JOIN run_command_on_shards('users', %s) AS asked ON asked.shardid = shard.shardid
                WHERE shard.logicalrelid = 'users'::regclass
                ORDER BY shard.shardminvalue::bigint""",
                (_IN_EACH_SHARD,),
            )
            return [_shard_users(row) for row in await cursor.fetchall()]

    async def moves(self) -> list[Move]:
        """Give the moves of this table's shards in the rebalance that runs, none if none runs."""
        async with self._pool.connection() as conn:
            cursor = conn.cursor(row_factory=class_row(Move))
            await cursor.execute(
                """\
                SELECT shardid, sourcename || ':' || sourceport AS source, targetname || ':' || targetport AS target,
                       CASE progress WHEN 0 THEN 'waiting' WHEN 1 THEN 'moving' ELSE 'moved' END AS progress, shard_size
                FROM get_rebalance_progress() WHERE table_name = 'users'::regclass ORDER BY shardid"""
            )
            return await cursor.fetchall()


def _shard_users(row: dict[str, Any]) -> ShardUsers:
    found = row.pop("found")
    return ShardUsers(Shard(**row), found["users"] if found else None, (found and found["first"]) or ())
