"""Changes of how tables are stored. Citus copies the rows itself, which can take hours."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from psycopg import Error
from psycopg.errors import Diagnostic

from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded, bounded_outside, set_local

LONGEST_S = 7 * 86_400.0
"""A copy of the largest tables takes days; an operation is ended by cancelling it."""
LOCK_TIMEOUT_S = 30.0
"""While the change waits for a lock, it makes others wait behind it."""
# A session whose client was killed would go on to the end of its statement, and keep its locks until then.
_NOTICED = {"client_connection_check_interval": "2s"}

Tell = Callable[[str], None]
Guard = Callable[[], Awaitable[None]]
"""Locks the tables, and raises an error if they must not be copied; the first act of the transaction that copies."""


@asynccontextmanager
async def told(conn: Connection, tell: Tell) -> AsyncIterator[None]:
    """Pass on what Citus reports meanwhile."""

    def handle(notice: Diagnostic) -> None:
        if notice.severity_nonlocalized in {"NOTICE", "WARNING"} and notice.message_primary:
            tell(notice.message_primary)

    conn.add_notice_handler(handle)
    try:
        yield
    finally:
        conn.remove_notice_handler(handle)


@asynccontextmanager
async def _lasting(conn: Connection, tell: Tell, guard: Guard | None = None) -> AsyncIterator[None]:
    async with told(conn, tell), bounded(conn, LONGEST_S, lock_timeout_s=LOCK_TIMEOUT_S):
        if guard is None:
            await set_local(conn, _NOTICED)
        else:
            await guard()
            # The guard has set shorter limits in this transaction.
            limits = {"statement_timeout": f"{LONGEST_S:g}s", "lock_timeout": f"{LOCK_TIMEOUT_S:g}s"}
            await set_local(conn, {**_NOTICED, **limits})
        yield


async def default_colocation(
    conn: Connection, oid: int, column: str, shard_count: int | None
) -> tuple[int | None, int]:
    """Return the colocation group that Citus chooses for a table (None: a new one), and its number of shards."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            """
            SELECT min(colocationid), coalesce(%(shards)s, current_setting('citus.shard_count')::int)
            FROM pg_dist_colocation JOIN pg_attribute ON attrelid = %(oid)s::oid AND attname = %(column)s
                AND distributioncolumntype = atttypid AND distributioncolumncollation = attcollation
            WHERE shardcount = coalesce(%(shards)s, current_setting('citus.shard_count')::int)
              AND replicationfactor = current_setting('citus.shard_replication_factor')::int
              AND colocationid NOT IN (SELECT colocationid FROM pg_dist_schema)
            """,
            {"oid": oid, "column": column, "shards": shard_count},
        )
        row = await cursor.fetchone()
    return (row[0], row[1]) if row else (None, shard_count or 0)


async def parse_column(conn: Connection, text: str) -> str:
    """Return the name of a column that a text means in SQL: folded to lower case unless it is quoted."""
    try:
        async with bounded(conn, QUICK_S):
            cursor = await conn.execute("SELECT parse_ident(%s)", [text])
            row = await cursor.fetchone()
    except Error:
        if conn.closed:
            raise
        return text
    return str(row[0][0]) if row and len(row[0]) == 1 else text


async def distribute(
    conn: Connection, oid: int, column: str, *, colocate_with: str, shard_count: int | None, guard: Guard, tell: Tell
) -> None:
    """Divide a table's rows among shards, while writes to it wait. In one transaction: all or nothing."""
    async with _lasting(conn, tell, guard):
        await conn.execute(
            "SELECT create_distributed_table(%s::oid::regclass, %s, colocate_with => %s, shard_count => %s::int)",
            [oid, column, colocate_with, shard_count],
        )


async def distribute_concurrently(
    conn: Connection, oid: int, column: str, *, colocate_with: str, shard_count: int | None, guard: Guard, tell: Tell
) -> None:
    """Divide a table's rows among shards, while writes go on.

    Citus commits in between: an interrupted change leaves a Citus-local table, which a second one distributes. So no
    lock of ``guard`` lasts as long as the copy.
    """
    async with bounded(conn, LONGEST_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await guard()
    settings = {**_NOTICED, "lock_timeout": f"{LOCK_TIMEOUT_S:g}s"}
    async with told(conn, tell), bounded_outside(conn, LONGEST_S):
        try:
            for name, value in settings.items():
                await conn.execute("SELECT set_config(%s, %s, false)", [name, value])
            await conn.execute(
                "SELECT create_distributed_table_concurrently(%s::oid::regclass, %s, colocate_with => %s, "
                "shard_count => %s::int)",
                [oid, column, colocate_with, shard_count],
            )
        finally:
            if not conn.closed:
                for name in settings:
                    await conn.execute(f"RESET {name}".encode())


async def forget_local_rows(conn: Connection, oid: int) -> None:
    """Remove the rows that a table kept on the coordinator when it was distributed; they are in its shards."""
    # PostgreSQL reports "truncate cascades to …" for tables with foreign keys, as if they lost rows. Theirs are in
    # shards too: Citus refuses the truncation otherwise.
    async with _lasting(conn, lambda notice: None):
        await conn.execute("SELECT truncate_local_data_after_distributing_table(%s::oid::regclass)", [oid])


async def make_reference(conn: Connection, oid: int, *, guard: Guard, tell: Tell) -> None:
    """Copy a table to every node."""
    async with _lasting(conn, tell, guard):
        await conn.execute("SELECT create_reference_table(%s::oid::regclass)", [oid])


async def undistribute(conn: Connection, oid: int, *, cascade: bool, guard: Guard, tell: Tell) -> None:
    """Copy a table's rows back to the coordinator, as an ordinary table; its OID changes."""
    async with _lasting(conn, tell, guard):
        await conn.execute(
            "SELECT undistribute_table(%s::oid::regclass, cascade_via_foreign_keys => %s)", [oid, cascade]
        )


async def alter(
    conn: Connection,
    oid: int,
    *,
    column: str | None,
    shard_count: int | None,
    colocate_with: str | None,
    cascade: bool | None,
    guard: Guard,
    tell: Tell,
) -> None:
    """Copy a table's rows to new shards; its OID changes."""
    async with _lasting(conn, tell, guard):
        await conn.execute(
            "SELECT alter_distributed_table(%s::oid::regclass, distribution_column => %s, shard_count => %s::int, "
            "colocate_with => %s, cascade_to_colocated => %s::boolean)",
            [oid, column, shard_count, colocate_with, cascade],
        )


async def distribute_schema(conn: Connection, oid: int, *, guard: Guard, tell: Tell) -> None:
    """Move all tables of a schema to one node."""
    async with _lasting(conn, tell, guard):
        await conn.execute("SELECT citus_schema_distribute(%s::oid::regnamespace)", [oid])


async def undistribute_schema(conn: Connection, oid: int, *, guard: Guard, tell: Tell) -> None:
    """Move all tables of a schema back to the coordinator."""
    async with _lasting(conn, tell, guard):
        await conn.execute("SELECT citus_schema_undistribute(%s::oid::regnamespace)", [oid])


async def split(
    conn: Connection,
    shard_id: int,
    points: Sequence[int],
    node_ids: Sequence[int],
    *,
    mode: str,
    guard: Guard,
    tell: Tell,
) -> None:
    """Divide a shard, and all that are colocated with it, after the hash values ``points``."""
    async with _lasting(conn, tell, guard):
        await conn.execute(
            "SELECT citus_split_shard_by_split_points(%s, %s::text[], %s::int[], %s::citus.shard_transfer_mode)",
            [shard_id, [str(point) for point in points], list(node_ids), mode],
        )


async def isolate(
    conn: Connection, oid: int, value: str, *, cascade: bool, mode: str, guard: Guard, tell: Tell
) -> None:
    """Give the rows with one value a shard of their own."""
    async with _lasting(conn, tell, guard):
        await conn.execute(
            "SELECT isolate_tenant_to_new_shard(%s::oid::regclass, %s::text, %s::text, %s::citus.shard_transfer_mode)",
            [oid, value, "CASCADE" if cascade else "", mode],
        )
