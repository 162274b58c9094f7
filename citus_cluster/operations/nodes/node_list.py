"""What every change of the node list shares: the lock, the checks before it, and the meaning of Citus' refusals."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg

from citus_cluster.errors import CitusClusterError, InUseError, LockedError, UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.removal import called, find_shard_targets
from citus_cluster.model.plan.preview import Finding, blocks, warns
from citus_cluster.model.units import count
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.liveness import silence
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import removal as citus_leaving
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.citus.rebalance import running_job_id
from citus_cluster.runtime.postgres import Connection, describe, translated

_MOST_TABLES = 5


@asynccontextmanager
async def changing(conn: Connection, address: NodeAddress, doing: str) -> AsyncIterator[None]:
    """Hold the writers' lock during a change of a node. ``doing`` completes "while ...".

    Raises LockedError, also if a rebalance holds the node list, UnreachableError, and InUseError if Citus refuses.
    """
    async with translated(doing), writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
        try:
            yield
        except (psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege):
            raise
        except psycopg.Error as error:
            raise await _explain(conn, address, doing, error) from error


async def _explain(conn: Connection, address: NodeAddress, doing: str, error: psycopg.Error) -> CitusClusterError:
    if conn.closed:
        return UnreachableError(
            f"The connection to the coordinator was lost while {doing}: {describe(error)}.",
            hint="Run the command again, which continues.",
        )
    if citus_nodes.is_busy(error):
        job_id = await running_job_id(conn)
        holder = f"rebalance {job_id} is running" if job_id else "another session is changing or using it"
        return LockedError(
            f"{address} cannot be changed now, because the node list or its shards are locked: {holder}.",
            hint="Wait until it is done (citus-cluster rebalance wait), then run the command again.",
        )
    return InUseError(
        f"Citus refused the change of {address}: {describe(error)}; nothing was changed.",
        hint=error.diag.message_hint or "See the coordinator's log.",
    )


async def silent_others(
    cluster: Cluster, conn: Connection, nodes: Sequence[RegisteredNode], but: RegisteredNode | None = None
) -> tuple[str, ...]:
    """Return a line for each other active node that does not answer: Citus tells each of a change, and would hang."""
    others = [node for node in nodes if but is None or node.node_id != but.node_id]
    return tuple((await silence(cluster.on_coordinator, conn, others)).values())


def others_block(address: NodeAddress, silent: Sequence[str]) -> tuple[Finding, ...]:
    """Return a finding for each other node that must answer first."""
    return tuple(
        blocks(f"Citus must tell every active node of the change of {address}: {line}", "citus-cluster nodes list")
        for line in silent
    )


async def moves_block(conn: Connection, node: RegisteredNode) -> tuple[Finding, ...]:
    """Return a finding if a running rebalance still moves shards to or from the node."""
    job_id = await running_job_id(conn)
    if job_id is None or not await citus_leaving.is_in_work(conn, job_id, node.node_id):
        return ()
    return (
        blocks(
            f"Rebalance {job_id} moves shards to or from {node.address}. Wait until it is done, or stop it.",
            "citus-cluster rebalance wait",
        ),
    )


async def held_by(conn: Connection, node: RegisteredNode, *, only_copies: bool = False) -> Counter[str]:
    """Return the number of distributed shards on a node by table; ``only_copies``: that no other active node has."""
    if node.role != "primary":
        return Counter()
    held = await citus_leaving.held_placements(conn, node.group_id)
    return Counter(one.table for one in held if not (only_copies and one.elsewhere))


def listed(tables: Counter[str]) -> str:
    """Return the tables with their numbers of shards, for a sentence."""
    words = [f"{table} ({count(number, 'shard')})" for table, number in sorted(tables.items())]
    more = len(words) - _MOST_TABLES
    return ", ".join(words[:_MOST_TABLES]) + (f" and {count(more, 'more table')}" if more > 0 else "")


async def disabling_findings(
    cluster: Cluster, conn: Connection, node: RegisteredNode, nodes: Sequence[RegisteredNode]
) -> tuple[tuple[Finding, ...], bool]:
    """Return what prevents disabling a node, and whether it is disabled synchronously.

    Asynchronously, other nodes learn of it later; Citus refuses that for the first worker, on which it takes locks.
    """
    findings = list(await moves_block(conn, node))
    only = await held_by(conn, node, only_copies=True)
    copies = await held_by(conn, node) - only
    if copies:
        findings.append(
            warns(
                f"Its copies of {count(copies.total(), 'shard')} are given up: when it is activated, Citus no longer "
                f"counts them ({listed(copies)})."
            )
        )
    if only:
        findings.append(
            blocks(
                f"{node.address} holds the only copies of {count(only.total(), 'shard')}, which nobody could query: "
                f"{listed(only)}.",
                f"citus-cluster nodes drain {called(node.address)} --wait",
            )
        )
    silent = await silent_others(cluster, conn, nodes, but=node)
    if silent and _is_first_worker(node, nodes):
        findings += others_block(node.address, silent)
    elif silent:
        findings += [warns(f"A node learns of it only once it answers: {line}") for line in silent]
    if node.should_have_shards and node.role == "primary" and not find_shard_targets(node, nodes):
        findings.append(warns("No other active node may hold shards, so no table can be distributed meanwhile."))
    standbys = [one for one in nodes if one.group_id == node.group_id and one.node_id != node.node_id]
    if standbys and node.role == "primary":
        findings.append(warns(f"Its standbys stay active: {', '.join(str(one.address) for one in standbys)}."))
    return tuple(findings), not silent


def _is_first_worker(node: RegisteredNode, nodes: Sequence[RegisteredNode]) -> bool:
    """Return whether Citus takes its locks of replicated tables on this worker (``GetFirstPrimaryWorkerNode``)."""
    workers = [one for one in nodes if one.is_active and one.role == "primary" and not one.is_coordinator]
    first = min(workers, key=lambda one: (one.address.host.encode(), one.address.port), default=None)
    return first is not None and first.node_id == node.node_id
