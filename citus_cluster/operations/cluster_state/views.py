"""Views of the whole cluster: what it runs, and how it differs from its files."""

import time
from collections.abc import Mapping, Sequence

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.citus.state import (
    ClusterState,
    Drift,
    NodeCounts,
    NodeVersions,
    Observed,
    ServerReport,
    drift,
)
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.liveness import share
from citus_cluster.operations.roles.cluster import ALONE
from citus_cluster.operations.view import View
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import state as citus_state
from citus_cluster.runtime.postgres import Connection, describe, translated

_BUDGET_S = 10.0


async def _observe(
    cluster: Cluster, conn: Connection, registry: Registry, silent: Mapping[NodeAddress, str]
) -> Observed:
    """Ask every active node that answers, several at once, in bounded time."""
    deadline = time.monotonic() + _BUDGET_S
    reasons = {node.node_id: silent[node.address] for node in registry.nodes if node.address in silent}
    reports: dict[int, ServerReport] = {}

    async def ask(session: Connection, node: RegisteredNode) -> None:
        left_s = deadline - time.monotonic()
        try:
            if left_s <= 0:
                reasons[node.node_id] = f"{node.address} was not asked, because others took too long."
                return
            reports[node.node_id] = await citus_state.ask_report(
                session, node, timeout_s=min(left_s, citus_probe.ANSWER_TIMEOUT_S)
            )
        except citus_probe.ProbeUnavailableError:
            return
        except (CitusClusterError, psycopg.Error) as error:
            if session.closed:
                raise
            message = error.message if isinstance(error, CitusClusterError) else describe(error)
            reasons[node.node_id] = message if str(node.address) in message else f"{node.address}: {message}"

    answering = [node for node in registry.nodes if node.is_active and node.node_id not in reasons]
    await share(cluster.on_coordinator, conn, answering, ask)
    return Observed(registry, await citus_state.read_unsynced(conn), reports, reasons)


async def _read_drift(cluster: Cluster, _: object) -> Sequence[Drift]:
    async def work(conn: Connection) -> Sequence[Drift]:
        async with translated("comparing the cluster with its files"):
            observed = await _observe(cluster, conn, registry, silent)
        return drift(observed, cluster.coordinator, cluster.workers)

    registry, silent = await cluster.seen()
    return await cluster.on_coordinator(work)


async def _read_state(cluster: Cluster, _: object) -> ClusterState:
    async def work(conn: Connection) -> ClusterState:
        async with translated("reading the state of the cluster"):
            observed = await _observe(cluster, conn, registry, silent)
            own = await citus_state.ask_report(conn, ALONE, timeout_s=citus_probe.ANSWER_TIMEOUT_S)
            capabilities = await citus_state.read_capabilities(conn)
        return _state(cluster, conn.info.dbname, observed, own, capabilities)

    registry, silent = await cluster.seen()
    return await cluster.on_coordinator(work)


def _state(
    cluster: Cluster, database: str, observed: Observed, own: ServerReport, capabilities: Mapping[str, bool]
) -> ClusterState:
    registry = observed.registry
    here = registry.coordinator
    return ClusterState(
        database=database,
        coordinator=str(here.address) if here else None,
        postgres_version=own.postgres_version,
        citus_version=own.citus_version or "unknown",
        extension_version=own.extension.installed,
        extension_available=own.extension.available,
        matches=own.extension.is_served_by(_release(own.citus_version)),
        counts=_counts(registry),
        capabilities=capabilities,
        nodes=tuple(_versions(node, observed) for node in registry.nodes),
    )


def _release(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (version or "").split(".")[:2] if part.isdigit())


def _counts(registry: Registry) -> NodeCounts:
    workers = [node for node in registry.nodes if node.role == "primary" and not node.is_coordinator]
    return NodeCounts(
        workers=len(workers),
        active_workers=sum(node.is_active for node in workers),
        secondaries=sum(node.role != "primary" for node in registry.nodes),
        in_maintenance=sum(node.in_maintenance for node in registry.nodes),
        holding_shards=sum(
            node.is_active and node.should_have_shards for node in registry.nodes if node.role == "primary"
        ),
    )


def _versions(node: RegisteredNode, observed: Observed) -> NodeVersions:
    report = observed.reports.get(node.node_id)
    role = "coordinator" if node.is_coordinator else "worker"
    reason = observed.silent.get(node.node_id)
    return NodeVersions(
        node=str(node.address),
        role=role if node.role == "primary" else f"{role} {node.role}",
        postgres_version=report.postgres_version if report else None,
        citus_version=report.citus_version if report else None,
        extension_version=report.extension.installed if report else None,
        extension_available=report.extension.available if report else None,
        settings_waiting_for_restart=tuple(
            one.name for one in (report.unused if report else ()) if one.needs_restart and one.name
        ),
        reason=reason or (None if report or node.is_active else "it is not active"),
    )


SHOW = View(
    name="cluster-show",
    summary="Show the versions of all nodes, the topology, and what this version of Citus can do.",
    path="cluster",
    command="cluster show",
    row=ClusterState,
    superuser=True,  # the errors in the settings files
    read=_read_state,
    max_age_s=5,
)

DRIFT = View(
    name="cluster-drift",
    summary="Compare the cluster with its files; only citus-cluster status on the host sees the containers.",
    path="cluster/drift",
    command="cluster drift",
    row=Drift,
    key="item",
    superuser=True,  # the errors in the settings files
    read=_read_drift,
    columns=("severity", "message", "fix"),
)
