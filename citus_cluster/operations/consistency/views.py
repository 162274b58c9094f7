"""Views of what is left over in a cluster."""

from collections.abc import Sequence

from citus_cluster.model.citus.orphans import OrphanRow
from citus_cluster.model.citus.prepared import PreparedRow
from citus_cluster.model.citus.restore_points import RestorePointRow
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.view import View
from citus_cluster.runtime.citus import consistency as citus_consistency
from citus_cluster.runtime.postgres import Connection, translated


async def _read_prepared(cluster: Cluster, _: object) -> Sequence[PreparedRow]:
    async with translated("listing the prepared transactions"):
        registry, silent = await cluster.seen()

        async def work(conn: Connection) -> Sequence[PreparedRow]:
            return await citus_consistency.prepared_transactions(conn, registry.nodes, silent)

        return await cluster.on_coordinator(work)


async def _read_orphans(cluster: Cluster, _: object) -> Sequence[OrphanRow]:
    async with translated("looking for orphaned resources"):
        registry, silent = await cluster.seen()

        async def work(conn: Connection) -> Sequence[OrphanRow]:
            return await citus_consistency.orphans(conn, registry.nodes, silent)

        return await cluster.on_coordinator(work)


async def _read_restore_points(cluster: Cluster, _: object) -> Sequence[RestorePointRow]:
    async def work(conn: Connection) -> Sequence[RestorePointRow]:
        async with translated("listing the restore points"):
            return await citus_consistency.read_restore_points(conn)

    return await cluster.on_coordinator(work)


PREPARED = View(
    name="consistency-prepared",
    summary="List the prepared transactions of all nodes, and whether each will be committed.",
    path="consistency/prepared",
    command="consistency prepared",
    row=PreparedRow,
    key="id",
    read=_read_prepared,
    columns=("node", "gid", "owner", "prepared_at", "seconds", "initiator", "decision", "problem"),
)

ORPHANS = View(
    name="consistency-orphans",
    summary="List what moves and splits of shards left behind on the nodes.",
    path="consistency/orphans",
    command="consistency orphans",
    row=OrphanRow,
    key="id",
    read=_read_orphans,
    columns=("node", "kind", "name", "state", "size_bytes", "remedy", "problem"),
)

RESTORE_POINTS = View(
    name="consistency-restore-points",
    summary="List the restore points that were created.",
    path="consistency/restore-points",
    command="consistency restore-points",
    row=RestorePointRow,
    key="name",
    read=_read_restore_points,
)
