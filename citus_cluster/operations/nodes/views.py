"""Views of the node list."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from citus_cluster.errors import UnreachableError
from citus_cluster.model.citus.nodes import ActiveWorker, MeshRow, NodeAddress, NodeRow
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.liveness import BUDGET_S, LIFE_S, share, silence
from citus_cluster.operations.view import View
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.server import active_workers
from citus_cluster.runtime.postgres import Connection, translated

_WATCHED_S = 2.0
"""How long nodes have to answer while somebody watches the list."""
_MESH_S = 15.0
"""Time limit of the check of all connections, for which every node has answered just before."""


async def _read_nodes(
    cluster: Cluster, _: object, *, budget_s: float = BUDGET_S, max_age_s: float = LIFE_S
) -> Sequence[NodeRow]:
    async def work(conn: Connection) -> tuple[Sequence[NodeRow], Registry]:
        return await citus_nodes.read_rows(conn), await citus_nodes.read_registry(conn)

    async with translated("listing the nodes"):
        rows, registry = await cluster.on_coordinator(work)
        silent = await cluster.liveness.silence(
            cluster.on_coordinator, registry.nodes, budget_s=budget_s, max_age_s=max_age_s
        )
    reasons = {str(address): reason for address, reason in silent.items()}
    return [
        replace(row, answers=row.node not in reasons if row.is_active else None, reason=reasons.get(row.node))
        for row in rows
    ]


async def _read_active(cluster: Cluster, _: object) -> Sequence[ActiveWorker]:
    async def work(conn: Connection) -> Sequence[ActiveWorker]:
        async with translated("listing the active workers"):
            return [ActiveWorker(str(NodeAddress(*row)), *row) for row in await active_workers(conn)]

    return await cluster.on_coordinator(work)


async def _read_mesh(cluster: Cluster, _: object) -> Sequence[MeshRow]:
    async def work(conn: Connection) -> Sequence[MeshRow]:
        async with translated("checking the connections between the nodes"):
            nodes = [node for node in (await citus_nodes.read_registry(conn)).nodes if node.is_active]
            silent = await silence(cluster.on_coordinator, conn, nodes)
            if not silent:
                seen = await citus_nodes.node_health(conn, _MESH_S)
                return [_row(origin, target, connects) for origin, target, connects in seen]
            return await _mesh_among(cluster, conn, nodes, silent)

    return await cluster.on_coordinator(work)


async def _mesh_among(
    cluster: Cluster, conn: Connection, nodes: Sequence[RegisteredNode], silent: Mapping[NodeAddress, str]
) -> Sequence[MeshRow]:
    """Check the connections between the nodes that answer: Citus' own check would wait for each silent one."""
    answering = [node for node in nodes if node.address not in silent]
    found: dict[tuple[NodeAddress, NodeAddress], bool | None] = {}

    async def ask(session: Connection, origin: RegisteredNode) -> None:
        for target in answering:
            if origin.is_coordinator and origin.role == "primary":
                connects: bool | None = await citus_probe.coordinator_reaches(session, target.address)
            else:
                try:
                    connects = await citus_probe.reaches(session, origin.address, target.address)
                except citus_probe.ProbeUnavailableError:
                    connects = None
                except UnreachableError:
                    if session.closed:
                        raise
                    connects = None
            found[origin.address, target.address] = connects

    with suppress(TimeoutError):
        async with asyncio.timeout(_MESH_S):
            await share(cluster.on_coordinator, conn, answering, ask)
    rows = []
    for origin in (node.address for node in nodes):
        for target in (node.address for node in nodes):
            if reason := silent.get(origin) or silent.get(target):
                rows.append(_row(origin, target, None if origin in silent else False, reason))
            else:
                connects = found.get((origin, target))
                rows.append(_row(origin, target, connects, "it could not be checked" if connects is None else None))
    return rows


def _row(origin: NodeAddress, target: NodeAddress, connects: bool | None, reason: str | None = None) -> MeshRow:
    return MeshRow(f"{origin} > {target}", str(origin), str(target), connects, reason)


LIST = View(
    name="nodes-list",
    summary="List all nodes of pg_dist_node, and whether each answers now.",
    path="nodes",
    command="nodes list",
    row=NodeRow,
    key="node_id",
    read=_read_nodes,
    columns=(
        "node",
        "role",
        "is_active",
        "answers",
        "in_maintenance",
        "should_have_shards",
        "metadata_synced",
        "shards",
        "reason",
    ),
)

WATCHED = replace(LIST, name="nodes-watched", read=partial(_read_nodes, budget_s=_WATCHED_S, max_age_s=0))
"""The same list for a page that reads it all the time: a silent node shows sooner, and an error ends by itself."""

ACTIVE = View(
    name="nodes-active",
    summary="List the rows of citus_get_active_worker_nodes(): metadata of Citus, not liveness.",
    path="nodes/active",
    command="nodes active",
    row=ActiveWorker,
    key="node",
    read=_read_active,
)

MESH = View(
    name="nodes-mesh",
    summary="Check that every node can connect to every node.",
    path="nodes/mesh",
    command="nodes mesh",
    row=MeshRow,
    key="link",
    superuser=True,  # connections between nodes, which need credentials
    read=_read_mesh,
    columns=("from_node", "to_node", "connects", "reason"),
)
