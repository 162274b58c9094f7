"""Clearing what is safe to clear, so that a rebalance continues: a declared change."""

from collections.abc import Sequence
from dataclasses import dataclass

from citus_cluster.model.citus.diagnosis import DiagnosisRow
from citus_cluster.model.citus.orphans import Kind, OrphanRow
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import NoParameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Preview, warns
from citus_cluster.model.units import count
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.consistency.changes import clean_up
from citus_cluster.operations.liveness import silence
from citus_cluster.operations.rebalance.diagnosis import Diagnosis, diagnose
from citus_cluster.runtime.citus import consistency as citus_consistency
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.postgres import Connection, translated

_ORDER = (Kind.SUBSCRIPTION, Kind.SLOT, Kind.PUBLICATION)
"""A subscription uses its slot, and a slot decodes by its publication."""
_UNRESOLVED = ("silent/", "requirement/", "queue")


@dataclass(frozen=True)
class DiagnosisDetails(Documented):
    """Every reason that was found, including those that a repair does not clear."""

    diagnosis: tuple[DiagnosisRow, ...]


@dataclass(frozen=True)
class Repaired(Documented):
    """How many moves are tried again at once, how many objects were dropped, and what is left for a person."""

    retried: int
    dropped: int
    left: tuple[DiagnosisRow, ...]


def plan_repair(found: Diagnosis) -> Preview:
    """Return what a repair would clear, and what it leaves for a person."""
    steps = []
    if _may_retry(found) and found.job:
        moves = "1 move that waits for its" if found.waiting == 1 else f"{found.waiting} moves that wait for their"
        steps.append(f"Retry at once {moves} next attempt in rebalance {found.job.job_id}.")
    if found.to_clean_up and not found.silent:
        steps.append(f"Let Citus drop {count(found.to_clean_up, 'object')} of earlier moves.")
    steps += [f"Drop {one.kind.value} {one.name} on {one.node}." for one in _in_order(found)]
    findings = tuple(warns(row.message, row.remedy) for row in found.rows if not row.repairs)
    return Preview(tuple(steps), findings, DiagnosisDetails(found.rows))


def _may_retry(found: Diagnosis) -> bool:
    """Return whether a retry can succeed: as long as a cause is known that a person must remove, it would fail too."""
    return found.waiting > 0 and not any(row.id.startswith(_UNRESOLVED) for row in found.rows)


def _in_order(found: Diagnosis) -> Sequence[OrphanRow]:
    return sorted(found.to_drop, key=lambda one: _ORDER.index(one.kind))


async def _plan(cluster: Cluster, _: object) -> Preview:
    async def work(conn: Connection) -> Diagnosis:
        return await _look(cluster, conn)

    return plan_repair(await cluster.on_coordinator(work))


async def _look(cluster: Cluster, conn: Connection) -> Diagnosis:
    """Diagnose with nodes that were asked just now: a repair tells all of them."""
    async with translated("diagnosing the rebalance"):
        nodes = (await citus_nodes.read_registry(conn)).nodes
        silent = await silence(cluster.on_coordinator, conn, nodes)
    return await diagnose(conn, nodes, silent)


async def _repair(cluster: Cluster, _: object, preview: Preview, emit: Emit) -> Repaired:
    async def work(conn: Connection) -> Repaired:
        found = await _look(cluster, conn)
        retried = dropped = 0
        if found.to_clean_up and not found.silent:
            dropped += (await clean_up(conn, emit)).dropped
        async with translated("repairing the rebalance"):
            nodes = {str(node.address): node for node in (await citus_nodes.read_registry(conn)).nodes}
            for one in _in_order(found):
                await citus_consistency.drop_leftover(conn, nodes[one.node], one.kind, one.name)
                dropped += 1
                message = f"dropped {one.kind.value} {one.name} on {one.node}"
                emit(Event(f"drop:{one.id}", EventKind.DONE, message))
            if _may_retry(found) and found.job:
                retried = await citus_rebalance.retry_now(conn, found.job.job_id)
                message = f"{count(retried, 'move')} of rebalance {found.job.job_id} will be tried again at once"
                emit(Event("retry", EventKind.DONE, message))
        if not (retried or dropped):
            emit(Event("repair", EventKind.SKIPPED, "there is nothing that is safe to clear"))
        left = [row for row in (await _look(cluster, conn)).rows if not row.repairs]
        for row in left:
            message = row.message if row.remedy is None else f"{row.message} {row.remedy}"
            emit(Event(f"left:{row.id}", EventKind.WARNING, message))
        return Repaired(retried, dropped, tuple(left))

    return await cluster.on_coordinator(work)


REPAIR = Change(
    name="rebalance-repair",
    summary="Clear what is safe to clear so that a rebalance continues, and name what is left for a person.",
    path="rebalance/repair",
    command="rebalance repair",
    parameters=NoParameters,
    plan=_plan,
    run=_repair,
    scope=lambda wanted: "rebalance-repair",
    lasts=True,
)
