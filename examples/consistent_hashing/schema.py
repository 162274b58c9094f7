"""The databases of the shards, and what is in each: made by commands that may run twice, or be killed half way."""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from consistent_hashing.server import Server
from consistent_hashing.shards import Shards
from consistent_hashing.topology import ShardBy, Topology, TopologyError

logger = logging.getLogger(__name__)
_Connection = psycopg.AsyncConnection[TupleRow]

# With region as the shard key, one user id may be in two regions, and so in two shards that later become one.
PRIMARY_KEY: dict[ShardBy, LiteralString] = {
    ShardBy.USER: "user_id",
    ShardBy.HYBRID: "user_id",
    ShardBy.REGION: "user_id, region",
}

_TOPOLOGY = """
    CREATE TABLE IF NOT EXISTS topology (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        version bigint NOT NULL,
        plan jsonb NOT NULL
    )"""


def _users(shard_by: ShardBy) -> LiteralString:
    return f"""
    CREATE TABLE IF NOT EXISTS users (
        user_id bigint NOT NULL,
        name varchar(100) NOT NULL,
        region varchar(50) NOT NULL,
        email varchar(100) NOT NULL,
        PRIMARY KEY ({PRIMARY_KEY[shard_by]})
    )"""


_INDEX = "CREATE INDEX IF NOT EXISTS idx_users_region ON users (region)"
# Any number: only those who make, change and drop databases and tables take it, each in the database it works in.
_LOCK_KEY: LiteralString = "715827882"
_LOCK = f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"
# CREATE DATABASE cannot run in a transaction, so this lock ends with the session. The server ends a session whose
# process sleeps, or others would wait for it.
_MAINTAIN = f"SET idle_session_timeout = '10s'; SELECT pg_advisory_lock({_LOCK_KEY})"


@contextlib.asynccontextmanager
async def maintain(server: Server) -> AsyncIterator[_Connection]:
    """Connect to the database from which databases are made; one process at a time.

    Without the lock, two that change one database at once fail with "tuple concurrently updated".
    """
    conninfo = server.conninfo(server.maintenance_database, statement_timeout_ms=30_000)
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await connection.execute(_MAINTAIN)
        yield connection


async def databases(connection: _Connection) -> set[str]:
    cursor = await connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")
    return {str(row[0]) for row in await cursor.fetchall()}


async def make_shard(server: Server, shard: str, shard_by: ShardBy) -> None:
    """Make the database of a shard and its tables, where they are missing."""
    async with maintain(server) as connection:
        name = sql.Identifier(shard)
        if shard not in await databases(connection):
            await connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
            logger.info("Made the database %s", shard)
        await connection.execute(sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(name))
    async with await psycopg.AsyncConnection.connect(server.conninfo(shard)) as inside:
        await inside.execute(_LOCK)
        await inside.execute(_users(shard_by))
        if shard_by is ShardBy.HYBRID:
            await inside.execute(_INDEX)
        await inside.execute(_TOPOLOGY)
        await inside.execute("INSERT INTO topology (version, plan) VALUES (0, '{}') ON CONFLICT DO NOTHING")


async def make_shards(server: Server, wanted: Topology) -> Topology:
    """Make all shards of a new service; give the topology, which is another one if the service has grown.

    Raises TopologyError if what exists does not fit.
    """
    async with maintain(server) as connection:
        existing = await databases(connection)
    shards = Shards(server, wanted.shards)
    try:
        for shard in sorted({*wanted.shards} & existing):
            if (found := await _stored(shards, shard)) is not None:
                _check(found, wanted, existing)
                return await shards.refresh(None)
        for shard in wanted.shards:
            await make_shard(server, shard, wanted.shard_by)
        # All are there before the first one is told, so a shard that is missing later is never made anew, empty.
        await shards.decide(wanted, wanted.decided_on)
        return await shards.refresh(None)
    finally:
        await shards.close()


async def _stored(shards: Shards, shard: str) -> Topology | None:
    try:
        return await shards.stored(shard)
    except psycopg.errors.UndefinedTable:
        return None


def _check(found: Topology, wanted: Topology, existing: set[str]) -> None:
    if found.shard_by is not wanted.shard_by:
        raise TopologyError(
            f"The shards place users by SHARD_BY={found.shard_by}, not {wanted.shard_by}. Set "
            f"SHARD_BY={found.shard_by}, or name other databases in SHARDS."
        )
    if missing := sorted({*found.nodes} - existing):
        raise TopologyError(
            f"The database of {', '.join(missing)} is missing, and with it its users. Restore it from a backup, or "
            f"give it up: python -m consistent_hashing take-out {missing[0]}"
        )


async def drop_shards(server: Server, shards: list[str]) -> None:
    """Remove databases with all users in them."""
    async with maintain(server) as connection:
        for shard in shards:
            await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(shard)))
