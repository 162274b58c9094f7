"""Tables, shards and their placements, from the coordinator's own catalog; sizes from each node separately.

Citus' views query all nodes at once, so a node that hangs hides the others; here each node is queried separately.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.disks import Disk
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.disks import DISK_QUESTION, disk_of
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.slots import LOST_SLOTS, names_of
from citus_cluster.runtime.postgres import Connection, bare_name, bounded


@dataclass(frozen=True)
class TableRow:
    """One table that Citus knows."""

    oid: int
    name: str
    type: str
    distribution_column: str | None
    colocation_id: int

    @property
    def moves(self) -> bool:
        """Whether its shards can move; a reference table has a copy on every node."""
        return self.type in {"distributed", "schema"}


@dataclass(frozen=True)
class Placement:
    """One copy of a shard: its table, and the group of nodes that holds it."""

    table_oid: int
    shard_id: int
    shard_name: str
    group_id: int


@dataclass(frozen=True)
class Presence:
    """What a node reports about its data: its own group, and the shards that it lacks.

    ``prepared`` names the prepared transactions of Citus on the node, which may still create shards.
    """

    group_id: int
    missing: tuple[int, ...]
    prepared: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeAnswer:
    """What a node reports about itself; sizes in bytes by shard id."""

    postgres_version: str
    citus_version: str | None
    sizes: Mapping[int, int]
    presence: Presence
    disk: Disk | None = None
    lost_slots: tuple[str, ...] = ()
    extension: ExtensionVersions | None = None


_PREPARED = psycopg.sql.SQL("""
    SELECT coalesce(json_agg(gid), '[]') FROM pg_prepared_xacts
    WHERE database = current_database() AND starts_with(gid, 'citus_')
""")

# Citus omits the schema of a shard's name if it is "public".
SHARD_NAME = """(
    SELECT CASE WHEN relnamespace = to_regnamespace('public') THEN 'public.' ELSE '' END
    FROM pg_class WHERE pg_class.oid = shard.logicalrelid) || shard_name(shard.logicalrelid, shard.shardid)"""
"""SQL of a shard's name with its schema, for a row ``shard`` of ``pg_dist_shard``."""

MOVING = """
    SELECT other.logicalrelid
    FROM pg_dist_shard JOIN pg_dist_partition AS its USING (logicalrelid)
    JOIN pg_dist_partition AS other ON other.logicalrelid = its.logicalrelid
      OR (its.colocationid > 0 AND other.colocationid = its.colocationid)
    WHERE shardid = ANY (%s)
    UNION
    SELECT logicalrelid FROM pg_dist_partition JOIN pg_dist_shard USING (logicalrelid)
    WHERE repmodel = 't' AND EXISTS (
        SELECT FROM pg_dist_node AS node
        WHERE node.isactive AND node.noderole = 'primary' AND node.groupid NOT IN (
            SELECT groupid FROM pg_dist_placement WHERE pg_dist_placement.shardid = pg_dist_shard.shardid))"""
"""SQL of the tables that a rebalance copies from node to node: those of the given shards, those colocated with them,
and, if a node still lacks its copy, the reference tables."""


async def read_tables(conn: Connection) -> tuple[TableRow, ...]:
    """Return the tables that do not belong to an extension, by name."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            """
            SELECT logicalrelid::oid, logicalrelid::text,
                   CASE WHEN colocationid IN (SELECT colocationid FROM pg_dist_schema) THEN 'schema'
                        WHEN repmodel = 't' THEN 'reference'
                        WHEN partmethod = 'n' AND colocationid = 0 THEN 'local'
                        ELSE 'distributed' END,
                   column_to_column_name(logicalrelid, partkey), colocationid
            FROM pg_dist_partition
            WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = logicalrelid
                              AND refclassid = 'pg_extension'::regclass AND deptype = 'e')
            ORDER BY 2
            """
        )
        return tuple(TableRow(row[0], bare_name(row[1]), *row[2:]) for row in await cursor.fetchall())


async def read_placements(conn: Connection, shard_ids: Sequence[int] | None = None) -> tuple[Placement, ...]:
    """Return every placement of every shard, or of the given shards."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            f"SELECT logicalrelid::oid, shardid, {SHARD_NAME}, groupid "  # noqa: S608 # our own constant
            "FROM pg_dist_shard AS shard JOIN pg_dist_placement USING (shardid) "
            "WHERE %(ids)s::bigint[] IS NULL OR shardid = ANY (%(ids)s) ORDER BY shardid, groupid",
            {"ids": None if shard_ids is None else list(shard_ids)},
        )
        return tuple(Placement(*row) for row in await cursor.fetchall())


async def ask_node(
    conn: Connection,
    node: RegisteredNode,
    placements: Sequence[Placement],
    *,
    timeout_s: float = citus_probe.ANSWER_TIMEOUT_S,
) -> NodeAnswer:
    """Return the versions of one node and the sizes of the shards there; errors as in :func:`citus_probe.ask`."""
    question = psycopg.sql.SQL(
        """
        SELECT json_build_object(
            'postgres_version', current_setting('server_version'),
            'citus_version', substring(citus_version() from 'Citus ([^ ]+)'),
            'disk', ({}),
            'lost_slots', ({}),
            'extension', (SELECT extversion FROM pg_extension WHERE extname = 'citus'),
            'available', (SELECT default_version FROM pg_available_extensions WHERE name = 'citus'),
            -- Refused, as every query of Citus, where the library does not fit the extension.
            'serves', (SELECT count(*) FROM citus_get_active_worker_nodes()),
            'group_id', (SELECT groupid FROM pg_dist_local_group),
            'prepared', ({}),
            'sizes', (SELECT coalesce(json_object_agg(id, pg_total_relation_size(to_regclass(name))), '{{}}')
                      FROM unnest({}::bigint[], {}::text[]) AS shard(id, name)))
        """
    ).format(DISK_QUESTION, LOST_SLOTS, _PREPARED, [p.shard_id for p in placements], [p.shard_name for p in placements])
    document = await citus_probe.ask_node(conn, node, question.as_string(conn), timeout_s=timeout_s)
    sizes = cast("Mapping[str, int | None]", document["sizes"])
    version = document["citus_version"]
    return NodeAnswer(
        postgres_version=str(document["postgres_version"]).split(" ")[0],
        citus_version=None if version is None else str(version),
        sizes={int(shard_id): size or 0 for shard_id, size in sizes.items()},
        disk=disk_of(node, document["disk"]),
        lost_slots=names_of(document["lost_slots"]),
        extension=ExtensionVersions(str(document["extension"]), str(document["available"])),
        presence=Presence(
            group_id=int(str(document["group_id"])),
            missing=tuple(int(shard_id) for shard_id, size in sizes.items() if size is None),
            prepared=names_of(document["prepared"]),
        ),
    )


async def presence(conn: Connection, node: RegisteredNode, placements: Sequence[Placement]) -> Presence:
    """Return which of the shards that are placed on a node exist there; errors as in :func:`citus_probe.ask`."""
    # A worker's pg_class hides shards from queries, but the lookup of a name finds them.
    question = psycopg.sql.SQL(
        """
        SELECT json_build_object(
            'group_id', (SELECT groupid FROM pg_dist_local_group),
            'prepared', ({}),
            'missing', (SELECT coalesce(json_agg(id), '[]')
                        FROM unnest({}::bigint[], {}::text[]) AS shard(id, name) WHERE to_regclass(name) IS NULL))
        """
    ).format(_PREPARED, [p.shard_id for p in placements], [p.shard_name for p in placements])
    document = await citus_probe.ask_node(conn, node, question.as_string(conn))
    missing = cast("Sequence[int]", document["missing"])
    return Presence(int(str(document["group_id"])), tuple(missing), names_of(document["prepared"]))


async def shard_sizes(conn: Connection, nodes: Sequence[RegisteredNode]) -> Mapping[NodeAddress, Mapping[int, int]]:
    """Return the bytes by shard id of the distributed tables on each node; nodes that do not answer are omitted."""
    distributed = {row.oid for row in await read_tables(conn) if row.moves}
    placements = [p for p in await read_placements(conn) if p.table_oid in distributed]
    found: dict[NodeAddress, Mapping[int, int]] = {}
    for node in nodes:
        here = [placement for placement in placements if placement.group_id == node.group_id]
        try:
            found[node.address] = (await ask_node(conn, node, here)).sizes
        except CitusClusterError:
            if conn.closed:
                raise
    return found
