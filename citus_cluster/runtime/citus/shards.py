"""All placements of all shards, and the place of a key: one query on the coordinator, and one for each node's sizes."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import psycopg
from psycopg import sql
from psycopg.abc import DumperKey
from psycopg.adapt import Dumper, PyFormat

from citus_cluster.errors import CitusClusterError, UntrustedCodeError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.shards import KeyLocation, ShardListRow, ShardLocation, ShardState
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.tables import SHARD_NAME
from citus_cluster.runtime.postgres import Connection, bare_name, bounded, describe

SIZES_TIMEOUT_S = 30.0
"""A node with 50,000 shards takes some seconds to measure them."""
LIST_TIMEOUT_S = 30.0
_ROWS_AT_ONCE = 1000
_ACTIVE, _INACTIVE, _TO_DELETE = 1, 3, 4

KIND = """CASE WHEN part.logicalrelid IS NULL THEN 'local'
     WHEN part.repmodel = 't' THEN 'reference'
     WHEN part.colocationid IN (SELECT colocationid FROM pg_dist_schema) THEN 'schema'
     WHEN part.partmethod = 'n' AND part.colocationid = 0 THEN 'citus-local'
     WHEN part.partmethod = 'n' THEN 'single-shard'
     ELSE 'distributed' END"""
"""SQL of the kind of a table, for a row ``part`` of ``pg_dist_partition``."""

# Each node knows its own placements, so the names of its shards are not sent to it.
_SIZES = f"""
SELECT coalesce(json_object_agg(shardid, pg_total_relation_size(to_regclass({SHARD_NAME}))), '{{}}')
FROM pg_dist_placement JOIN pg_dist_shard AS shard USING (shardid)
WHERE groupid = (SELECT groupid FROM pg_dist_local_group)
"""  # noqa: S608 # our own constant
_PLACEMENTS = """
SELECT placementid, shardid, logicalrelid::oid::bigint, groupid, shardstate, shardminvalue, shardmaxvalue
FROM pg_dist_placement JOIN pg_dist_shard USING (shardid) ORDER BY shardid, placementid
"""
_TABLES = f"""
SELECT logicalrelid::oid::bigint, logicalrelid::text, {KIND}, nullif(colocationid, 0)
FROM pg_dist_partition AS part
"""  # noqa: S608 # our own constant

# The type below the domains of the distribution column, and the types in it whose input runs code: the checks of a
# domain, and the function that makes a range canonical.
_KEY_TYPE = """
WITH RECURSIVE down AS (
    SELECT pg_type.oid, typbasetype
    FROM pg_dist_partition JOIN pg_attribute ON attrelid = logicalrelid::oid
        AND attname = column_to_column_name(logicalrelid, partkey)
    JOIN pg_type ON pg_type.oid = atttypid
    WHERE logicalrelid = %s::oid AND partmethod = 'h'
    UNION ALL
    SELECT pg_type.oid, pg_type.typbasetype FROM down JOIN pg_type ON pg_type.oid = down.typbasetype
), parts AS (
    SELECT oid FROM down WHERE typbasetype = 0
    UNION
    SELECT part.type FROM parts JOIN pg_type USING (oid) CROSS JOIN LATERAL (
        SELECT typelem WHERE typelem <> 0
        UNION ALL SELECT typbasetype WHERE typbasetype <> 0
        UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = pg_type.oid
        UNION ALL SELECT rngtypid FROM pg_range WHERE rngmultitypid = pg_type.oid
        UNION ALL SELECT atttypid FROM pg_attribute WHERE typrelid <> 0 AND attrelid = typrelid AND attnum > 0
            AND NOT attisdropped) AS part(type)
)
SELECT down.oid::bigint, ARRAY(
    SELECT format_type(pg_type.oid, NULL) FROM parts JOIN pg_type USING (oid)
    JOIN pg_roles AS owner ON owner.oid = typowner LEFT JOIN pg_range ON rngtypid = pg_type.oid
    -- The owner of a domain may add a check at any time, that of a composite type a column of such a domain.
    WHERE NOT owner.rolsuper AND (typtype IN ('d', 'c') OR rngcanonical::oid <> 0)
       OR EXISTS (SELECT FROM pg_constraint JOIN pg_depend ON classid = 'pg_constraint'::regclass
                  AND objid = pg_constraint.oid AND refclassid = 'pg_proc'::regclass
                  JOIN pg_proc ON pg_proc.oid = refobjid JOIN pg_roles AS maker ON maker.oid = proowner
                  WHERE contypid = pg_type.oid AND NOT maker.rolsuper)
    ORDER BY 1)
FROM down WHERE typbasetype = 0
"""

Sizes = Mapping[int, Mapping[int, int | None]]
"""Bytes by group of nodes and shard id; None for a shard that a node lacks. Nodes without an answer are missing."""


async def sizes_by_group(
    conn: Connection, nodes: Iterable[RegisteredNode], *, known: Mapping[NodeAddress, str] | None = None
) -> Sizes:
    """Ask each active primary for the sizes of its placements, each separately; silent nodes are omitted.

    ``known`` are the silent nodes, if the caller has just looked for them.
    """
    found: dict[int, Mapping[int, int | None]] = {}
    primaries = [node for node in nodes if node.is_active and node.role == "primary"]
    silent = await citus_probe.silence(conn, primaries) if known is None else known
    for node in primaries:
        if node.address in silent:
            continue
        try:
            answer = await citus_probe.ask_node(conn, node, _SIZES, timeout_s=SIZES_TIMEOUT_S)
        except (CitusClusterError, psycopg.Error):
            if conn.closed:
                raise
            continue
        found[node.group_id] = {int(shard): cast("int | None", size) for shard, size in answer.items()}
    return found


async def list_placements(conn: Connection, nodes: Iterable[RegisteredNode], sizes: Sizes) -> tuple[ShardListRow, ...]:
    """Return every placement. Equal texts are the same object, because there can be 100,000 rows.

    They are read little by little, so that other tasks run in between.
    """
    names = {node.group_id: sys.intern(str(node.address)) for node in nodes if node.role == "primary"}
    async with bounded(conn, LIST_TIMEOUT_S):
        cursor = await conn.execute(_TABLES.encode())
        tables = {
            oid: (sys.intern(bare_name(name)), TableKind(kind), colocation)
            for oid, name, kind, colocation in await cursor.fetchall()
        }
        groups: dict[tuple[int, str | None], int] = {}
        found = []
        # A cursor of the server, because the whole answer would take more memory than the rows.
        async with conn.cursor("placements") as placements:
            await placements.execute(_PLACEMENTS.encode())
            while rows := await placements.fetchmany(_ROWS_AT_ONCE):
                for placement_id, shard_id, oid, group, state, low, high in rows:
                    if oid not in tables:
                        continue  # it was dropped in between
                    table, kind, colocation = tables[oid]
                    # The rows are ordered by shard, so the first one of a group has its smallest number.
                    shard_group = groups.setdefault((colocation or -oid, low), shard_id)
                    known = sizes.get(group)
                    size = None if known is None else known.get(shard_id)
                    found.append(
                        ShardListRow(
                            placement_id=placement_id,
                            shard_id=shard_id,
                            table=table,
                            kind=kind,
                            node=names.get(group, f"group {group}"),
                            bytes=size,
                            colocation_id=colocation,
                            group_id=shard_group,
                            min_value=low,
                            max_value=high,
                            state=_state(state, is_known=known is not None, is_there=size is not None),
                        )
                    )
    return tuple(found)


def _state(state: int, *, is_known: bool, is_there: bool) -> ShardState:
    if state != _ACTIVE:
        return ShardState.TO_DELETE if state == _TO_DELETE else ShardState.INACTIVE
    if not is_known:
        return ShardState.UNKNOWN
    return ShardState.ACTIVE if is_there else ShardState.MISSING


async def locate_key(conn: Connection, nodes: Iterable[RegisteredNode], oid: int, value: str) -> KeyLocation:
    """Return where the rows of a table with a distribution value are.

    Raises UsageError for a value of another type, and UntrustedCodeError for a type that runs code of ordinary roles.
    """
    by_group = {node.group_id: node for node in nodes if node.role == "primary"}
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            f"SELECT pg_class.oid::regclass::text, {KIND}, column_to_column_name(part.logicalrelid, partkey), "  # noqa: S608
            "pg_total_relation_size(pg_class.oid) "
            "FROM pg_class LEFT JOIN pg_dist_partition AS part ON part.logicalrelid = pg_class.oid "
            "WHERE pg_class.oid = %s",
            [oid],
        )
        row = await cursor.fetchone()
    if row is None:
        raise UsageError("The table was dropped in between.")
    name, kind, column, local_bytes = bare_name(row[0]), TableKind(row[1]), row[2], row[3]
    if kind is TableKind.LOCAL:
        coordinator = by_group.get(0)
        here = (ShardLocation(str(coordinator.address), *_host(coordinator), name, local_bytes),) if coordinator else ()
        return KeyLocation(name, kind, None, value, None, None, None, here)
    key = Typed(value, await _key_type(conn, oid, name)) if column else None
    shard_id, low, high, physical, groups = await _find_shard(conn, oid, key)
    locations = []
    for group in groups:
        node = by_group.get(group)
        if node is not None:
            size = await _size_of(conn, node, physical)
            locations.append(ShardLocation(str(node.address), *_host(node), bare_name(physical), size))
    return KeyLocation(name, kind, column, value, shard_id, low, high, tuple(locations))


def _host(node: RegisteredNode) -> tuple[str, int]:
    return node.address.host, node.address.port


@dataclass(frozen=True)
class Typed:
    """A text that the server reads as the type with this OID. Its owner could give the name to another type."""

    text: str
    type: int


class _TypedDumper(Dumper):
    def get_key(self, obj: Typed, format: PyFormat) -> DumperKey:
        return (self.cls, (obj.type,))  # type: ignore[return-value]

    def upgrade(self, obj: Typed, format: PyFormat) -> Dumper:
        found = type(self)(self.cls)
        found.oid = obj.type
        return found

    def dump(self, obj: Typed) -> bytes:
        return obj.text.encode()


async def _key_type(conn: Connection, oid: int, name: str) -> int:
    """Return the OID of the type as which a distribution value is read.

    Not that of the column, as which Citus' own function reads it: the checks of a domain, which belong to an ordinary
    role, would run as the superuser. A domain has the hash values of its base type. Raises UsageError for a table that
    is not divided by hash values, and UntrustedCodeError for a type with such checks inside.
    """
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(_KEY_TYPE, [oid])
        row = await cursor.fetchone()
    if row is None:
        raise UsageError(f"{name} is not divided by hash values, so no value has one shard.")
    base, parts = row
    if parts:
        raise UntrustedCodeError(
            f"The shard of a value of {name} was not looked up: reading the value would run the checks of "
            f"{', '.join(parts)} as the superuser.",
            hint="Look it up as a role that owns or reads the table: "
            "SELECT get_shard_id_for_distribution_column('TABLE', 'VALUE');",
        )
    return int(base)


async def _find_shard(
    conn: Connection, oid: int, key: Typed | None
) -> tuple[int, str | None, str | None, str, list[int]]:
    # A parameter, which only the input of its type reads: the owner of a type may define casts to it.
    place = "(SELECT worker_hash(%(key)s)) BETWEEN shardminvalue::int AND shardmaxvalue::int" if key else "true"
    try:
        async with bounded(conn, QUICK_S):
            cursor = conn.cursor()
            cursor.adapters.register_dumper(Typed, _TypedDumper)
            await cursor.execute(
                (
                    f"SELECT shardid, shardminvalue, shardmaxvalue, {SHARD_NAME}, "  # noqa: S608 # our own constants
                    "(SELECT array_agg(groupid ORDER BY groupid) FROM pg_dist_placement "
                    " WHERE pg_dist_placement.shardid = shard.shardid) FROM pg_dist_shard AS shard "
                    f"WHERE logicalrelid = %(table)s::oid AND {place} ORDER BY shardid LIMIT 1"
                ).encode(),
                {"table": oid, "key": key} if key else {"table": oid},
            )
            row = await cursor.fetchone()
    except psycopg.DataError as error:
        raise UsageError(
            f"The value does not fit the distribution column: {describe(error)}.",
            hint="Write the value as PostgreSQL writes it, for example 42, 2026-01-31, or (1,a) for a composite type.",
        ) from error
    if row is None:
        raise UsageError("No shard of the table has a range for this value.")
    return row[0], row[1], row[2], row[3], row[4] or []


async def _size_of(conn: Connection, node: RegisteredNode, table: str) -> int | None:
    question = sql.SQL("SELECT json_build_object('bytes', pg_total_relation_size(to_regclass({})))").format(table)
    try:
        answer = await citus_probe.ask_node(conn, node, question.as_string(conn))
    except (CitusClusterError, psycopg.Error):
        if conn.closed:
            raise
        return None
    return cast("int | None", answer["bytes"])


async def exists(conn: Connection, shard_id: int) -> bool:
    """Return whether there is a shard with this number."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT FROM pg_dist_shard WHERE shardid = %s", [shard_id])
        return await cursor.fetchone() is not None


async def ranges_between(conn: Connection, oid: int, lowest: int, highest: int) -> Mapping[int, tuple[int, int]]:
    """Return the shards of a table within a range of hash values, in its order, each with its first and last value."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT shardid, shardminvalue::int, shardmaxvalue::int FROM pg_dist_shard WHERE logicalrelid = %s::oid "
            "AND shardminvalue::int >= %s AND shardmaxvalue::int <= %s ORDER BY shardminvalue::int",
            [oid, lowest, highest],
        )
        return {shard: (first, last) for shard, first, last in await cursor.fetchall()}
