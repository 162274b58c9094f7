"""Shared parts of the tests that drain workers and of those that remove them from the node list."""

from collections.abc import Mapping

import sql_tables
from sql_servers import COORDINATOR, Servers, on

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance_plan import TransferMode
from citus_cluster.model.citus.removal import Departure
from citus_cluster.model.plan.events import Emit, ignore
from citus_cluster.operations.nodes import drain
from citus_cluster.operations.nodes import unregistration as unregistration
from citus_cluster.operations.nodes.drain import Drained, DrainPlan
from citus_cluster.runtime.postgres import Connection


def distribute(cluster: Servers, *, key: str = "PRIMARY KEY", rows: int = 20000) -> None:
    sql_tables.distribute(cluster, key=key, rows=rows, shards=6, countries=True)


def checksum(cluster: Servers) -> list[tuple[object, ...]]:
    return [*sql_tables.checksum(cluster), *cluster.sql(COORDINATOR.host, "SELECT sum(id) FROM countries")]


def named(*workers: NodeAddress) -> Mapping[str, NodeAddress]:
    return {worker.host: worker for worker in workers}


def run_drain(
    cluster: Servers, *workers: NodeAddress, emit: Emit = ignore, wait: bool = True, online: bool = False
) -> Drained:
    async def body(conn: Connection) -> Drained:
        return await drain.drain(conn, named(*workers), emit, mode=TransferMode.AUTO, wait=wait, online=online)

    return on(cluster, body)


def run_plan(
    cluster: Servers, *workers: NodeAddress, mode: TransferMode = TransferMode.AUTO, online: bool = False
) -> DrainPlan:
    return on(cluster, lambda conn: drain.plan(conn, named(*workers), mode=mode, online=online))


def deregister(cluster: Servers, worker: NodeAddress, *, force: bool = False, emit: Emit = ignore) -> None:
    async def body(conn: Connection) -> None:
        await unregistration.deregister(conn, await unregistration.look(conn, worker.host, worker), emit, force=force)

    on(cluster, body)


def look(cluster: Servers, worker: NodeAddress) -> Departure:
    return on(cluster, lambda conn: unregistration.look(conn, worker.host, worker))
