"""Views of what the cluster does now, and of what it has counted."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import WorkerUnreachableError
from citus_cluster.model.citus.activity import StatementRow, mark_own, shown
from citus_cluster.model.citus.locks import LockRow, build_tree
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import Registry
from citus_cluster.model.citus.statistics import (
    NEEDS,
    Feature,
    FeatureRow,
    TenantRow,
    TopStatementRow,
    describe_feature,
    require,
)
from citus_cluster.model.parameters import parameters
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes.lookup import find_node
from citus_cluster.operations.view import View
from citus_cluster.runtime.citus import activity as citus_activity
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import statistics as citus_statistics
from citus_cluster.runtime.postgres import Connection, translated

MOST_STATEMENTS = 1000


@parameters
class WhichStatements:
    """Which sessions to list."""

    idle: Annotated[bool, Field(description="Also list sessions that run nothing.")] = False
    parts: Annotated[bool, Field(description="Also list the parts of statements that other nodes run.")] = False


@parameters
class WhichNode:
    """Whose statistics to list."""

    node: Annotated[
        str | None,
        Field(
            max_length=261,
            description="Node, by HOST or HOST:PORT; by default the coordinator.",
            examples=["citus-worker1:5432"],
        ),
    ] = None


async def _seen(cluster: Cluster) -> tuple[Registry, Mapping[NodeAddress, str]]:
    registry, silent = await cluster.seen()
    return cluster.complete(registry), silent


async def _read_statements(cluster: Cluster, wanted: WhichStatements) -> Sequence[StatementRow]:
    async with translated("listing the statements"):
        registry, silent = await _seen(cluster)

        async def work(conn: Connection) -> Sequence[StatementRow]:
            return mark_own(await citus_activity.statements(conn, registry.nodes, silent))

        rows = await cluster.on_coordinator(work)
    return shown(rows, idle=wanted.idle, parts=wanted.parts)


async def _read_locks(cluster: Cluster, _: object) -> Sequence[LockRow]:
    async with translated("listing the lock waits"):
        registry, known = await _seen(cluster)

        async def work(conn: Connection) -> Sequence[LockRow]:
            sessions, silent = await citus_activity.lock_waits(conn, registry.nodes, known)
            return build_tree(sessions, {str(address): reason for address, reason in silent.items()})

        return await cluster.on_coordinator(work)


async def _read_top(cluster: Cluster, wanted: WhichNode) -> Sequence[TopStatementRow]:
    async def work(conn: Connection) -> Sequence[TopStatementRow]:
        async with translated("reading the statistics of statements"):
            registry = cluster.complete(await citus_nodes.read_registry(conn))
            node = await find_node(conn, cluster, wanted.node) if wanted.node else registry.coordinator
            assert node is not None  # noqa: S101 - it is complete
            (found, silent) = await citus_statistics.features(conn, [node], NEEDS[Feature.STATEMENTS])
            if silent:
                raise WorkerUnreachableError(next(iter(silent.values())), hint=node.address.silence_hint)
            require(Feature.STATEMENTS, found[0])
            return await citus_statistics.top_statements(conn, node, found[0].schema or "public", MOST_STATEMENTS)

    return await cluster.on_coordinator(work)


async def _read_tenants(cluster: Cluster, _: object) -> Sequence[TenantRow]:
    async def work(conn: Connection) -> Sequence[TenantRow]:
        async with translated("reading the statistics of tenants"):
            need = NEEDS[Feature.TENANTS]
            found, _ = await citus_statistics.features(conn, registry.nodes, need, known)
            counting = [one for one in found if not one.missing(need)]
            if found and not counting:
                require(Feature.TENANTS, found[0])
            rows, silent = await citus_statistics.tenants(conn, registry.nodes, known)
        problems = {str(address): reason for address, reason in silent.items()}
        problems |= {
            str(one.node): f"It does not count: {', '.join(one.missing(need))} is missing."
            for one in found
            if one.missing(need)
        }
        return (*rows, *(TenantRow(id=node, node=node, problem=reason) for node, reason in problems.items()))

    registry, known = await _seen(cluster)
    return await cluster.on_coordinator(work)


async def _read_features(cluster: Cluster, _: object) -> Sequence[FeatureRow]:
    async def work(conn: Connection) -> Sequence[FeatureRow]:
        rows = []
        async with translated("checking which statistics are collected"):
            for feature, need in NEEDS.items():
                found, silent = await citus_statistics.features(conn, registry.nodes, need, known)
                rows.append(describe_feature(feature, found, silent))
        return rows

    registry, known = await _seen(cluster)
    return await cluster.on_coordinator(work)


LIST = View(
    name="activity-list",
    summary="List the running statements and open transactions of all nodes.",
    path="activity",
    command="activity list",
    row=StatementRow,
    parameters=WhichStatements,
    key="id",
    read=_read_statements,
    columns=("global_pid", "node", "role", "database", "state", "seconds", "wait_event", "query", "problem"),
)

LOCKS = View(
    name="activity-locks",
    summary="List the sessions that wait for locks as a tree, each below the one that blocks it.",
    path="activity/locks",
    command="activity locks",
    row=LockRow,
    key="position",
    read=_read_locks,
    columns=("position", "parent", "global_pid", "node", "role", "state", "lock", "seconds", "query", "problem"),
)

STATEMENTS = View(
    name="activity-statements",
    summary="List the statements that have taken most time on a node.",
    path="activity/statements",
    command="activity statements",
    row=TopStatementRow,
    parameters=WhichNode,
    key="id",
    read=_read_top,
    max_age_s=5,
    columns=("role", "calls", "total_ms", "mean_ms", "rows", "share", "executor", "query"),
)

TENANTS = View(
    name="activity-tenants",
    summary="List the tenants with most queries on each node.",
    path="activity/tenants",
    command="activity tenants",
    row=TenantRow,
    key="id",
    read=_read_tenants,
    max_age_s=5,
    columns=("node", "tenant", "tables", "reads", "queries", "cpu_seconds", "queries_last_period", "problem"),
)

FEATURES = View(
    name="activity-features",
    summary="List which statistics are collected, and what the others lack.",
    path="activity/features",
    command="activity features",
    row=FeatureRow,
    key="feature",
    read=_read_features,
    max_age_s=5,
)
