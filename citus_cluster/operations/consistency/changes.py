"""Changes that end or drop what is left over, and that create restore points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import UsageError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.orphans import OrphanRow, OrphanState
from citus_cluster.model.citus.prepared import Decision, PreparedRow
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.restore_points import MOST_BYTES, RestorePointRow
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import NoParameters, parameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.model.units import count
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.runtime.citus import consistency as citus_consistency
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.server import citus_version
from citus_cluster.runtime.postgres import Connection, translated

_SHOWN = 50


@parameters
class NewRestorePoint:
    """A restore point to create."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MOST_BYTES,
            description="Name, with which recovery_target_name finds it on every node.",
            examples=["before-release-12"],
        ),
    ]


@dataclass(frozen=True)
class CreatedRestorePoint(Documented):
    """The restore point that was created; ``lsn`` is the coordinator's position."""

    name: str
    lsn: str


async def _plan_restore_point(cluster: Cluster, wanted: NewRestorePoint) -> Preview:
    if len(wanted.name.encode()) > MOST_BYTES or not wanted.name.isprintable():
        raise UsageError(f"name: it must be printable and at most {MOST_BYTES} bytes long.")

    async def work(conn: Connection) -> Preview:
        async with translated("checking the restore point"):
            nodes = (await citus_nodes.read_registry(conn)).nodes
            findings = _silence(await citus_probe.silence(conn, nodes))
            known = {one.name for one in await citus_consistency.read_restore_points(conn)}
            major = (await citus_version(conn)).split(".")[0]
        if wanted.name in known:
            message = "A restore point of this name exists. A recovery would stop at the earlier one."
            findings.append(blocks(f"{message} Choose another name."))
        if major.isdigit() and int(major) < 14:
            message = "Before Citus 14, transactions that clients begin on workers are not held back meanwhile."
            findings.append(warns(message, "Let clients write only through the coordinator while it is created."))
        findings.append(warns("Transactions on a single node are not held back: each node is consistent by itself."))
        step = f"Hold back the commits of distributed transactions, and create the restore point {wanted.name} on "
        return Preview((f"{step}{count(sum(node.is_active for node in nodes), 'node')}.",), tuple(findings))

    return await cluster.on_coordinator(work)


async def _create_restore_point(
    cluster: Cluster, wanted: NewRestorePoint, preview: Preview, emit: Emit
) -> CreatedRestorePoint:
    async def work(conn: Connection) -> tuple[str, Mapping[NodeAddress, str]]:
        async with translated("creating the restore point"):
            nodes = (await citus_nodes.read_registry(conn)).nodes
            lsn = await citus_consistency.create_restore_point(conn, wanted.name)
            return lsn, await citus_consistency.flush_wal(conn, nodes)

    lsn, silent = await cluster.on_coordinator(work)
    for address, reason in silent.items():
        text = f"{address} may not have written the restore point to disk yet: {reason}"
        emit(Event(f"flush:{address}", EventKind.WARNING, text))
    message = f"restore point {wanted.name} was created; the coordinator's position is {lsn}"
    emit(Event(f"restore-point:{wanted.name}", EventKind.DONE, message, {"lsn": lsn}))
    return CreatedRestorePoint(wanted.name, lsn)


async def _completed_restore_point(
    cluster: Cluster, wanted: NewRestorePoint, _: object, emit: Emit
) -> CreatedRestorePoint | None:
    """Return the restore point if it exists: the plan has seen that no earlier one has its name."""

    async def work(conn: Connection) -> Sequence[RestorePointRow]:
        async with translated("looking for the restore point"):
            return await citus_consistency.read_restore_points(conn)

    for one in await cluster.on_coordinator(work):
        if one.name == wanted.name:
            emit(Event(f"restore-point:{one.name}", EventKind.SKIPPED, f"restore point {one.name} was created"))
            return CreatedRestorePoint(one.name, one.lsn)
    return None


@dataclass(frozen=True)
class PreparedDetails(Documented):
    """The prepared transactions, with what becomes of each."""

    transactions: tuple[PreparedRow, ...]


@dataclass(frozen=True)
class Recovered(Documented):
    """How many prepared transactions were ended, and those that are left."""

    ended: int
    left: tuple[PreparedRow, ...]


async def _plan_recovery(cluster: Cluster, _: object) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("listing the prepared transactions"):
            rows = await citus_consistency.prepared_transactions(conn, (await citus_nodes.read_registry(conn)).nodes)
        return plan_recovery(rows)

    return await cluster.on_coordinator(work)


def plan_recovery(rows: Sequence[PreparedRow]) -> Preview:
    """Return what a recovery would commit and roll back, and what it leaves for a person."""
    verbs = {Decision.COMMIT: "Commit", Decision.ROLLBACK: "Roll back"}
    steps = [
        f"{verbs[one.decision]} {one.gid} on {one.node}, which {one.initiator} "
        f"{'has committed' if one.decision is Decision.COMMIT else 'did not commit'}."
        for one in rows
        if one.decision in verbs
    ]
    findings: list[Finding] = []
    for one in rows:
        literal = (one.gid or "").replace("'", "''")
        if one.problem:
            address = NodeAddress.parse(one.node)
            findings.append(blocks(one.problem, address.compose_command("unpause")) if steps else warns(one.problem))
        elif one.decision is Decision.FOREIGN:
            message = f"{one.gid} on {one.node} does not belong to Citus: the application that prepared it decides."
            findings.append(warns(message, f"ROLLBACK PREPARED '{literal}';  -- or COMMIT PREPARED, on {one.node}"))
        elif one.decision is Decision.UNKNOWN:
            message = f"{one.gid} on {one.node} was begun by a node that does not answer or was removed."
            fix = f"ROLLBACK PREPARED '{literal}';  -- on {one.node}, unless it was committed"
            findings.append(warns(message, fix))
    return Preview(tuple(steps), tuple(findings), PreparedDetails(tuple(rows)))


async def _recover(cluster: Cluster, _: object, preview: Preview, emit: Emit) -> Recovered:
    async def work(conn: Connection) -> Recovered:
        ended = 0
        async with translated("recovering prepared transactions"):
            nodes = (await citus_nodes.read_registry(conn)).nodes
            before = await citus_consistency.prepared_transactions(conn, nodes)
            plan_recovery(before).refuse()  # Citus would hang with a node that has become silent
            for node in _initiators(before, nodes):
                found = await citus_consistency.recover(conn, node)
                ended += found
                message = f"{node.address} has ended {count(found, 'prepared transaction')}"
                emit(Event(f"recover:{node.address}", EventKind.DONE, message, {"ended": found}))
            left = await citus_consistency.prepared_transactions(conn, nodes)
        if not ended:
            emit(Event("recover", EventKind.SKIPPED, "no prepared transaction is left over"))
        return Recovered(ended, tuple(one for one in left if one.decision is not Decision.RUNNING))

    return await cluster.on_coordinator(work)


def _initiators(rows: Sequence[PreparedRow], nodes: Sequence[RegisteredNode]) -> list[RegisteredNode]:
    wanted = {one.initiator for one in rows if one.decision in {Decision.COMMIT, Decision.ROLLBACK}}
    return [node for node in nodes if str(node.address) in wanted]


@dataclass(frozen=True)
class OrphanDetails(Documented):
    """What moves and splits of shards left behind, and what they use now."""

    orphans: tuple[OrphanRow, ...]


@dataclass(frozen=True)
class CleanedUp(Documented):
    """How many objects were dropped, and what is left."""

    dropped: int
    left: tuple[OrphanRow, ...]


async def _plan_cleanup(cluster: Cluster, _: object) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("looking for orphaned resources"):
            return plan_cleanup(await citus_consistency.orphans(conn, (await citus_nodes.read_registry(conn)).nodes))

    return await cluster.on_coordinator(work)


def plan_cleanup(rows: Sequence[OrphanRow]) -> Preview:
    """Return what a clean-up would drop, and what it leaves for a person."""
    waiting = [one for one in rows if one.state is OrphanState.WAITS]
    steps = [f"Drop {one.kind.value} {one.name} on {one.node}." for one in waiting[:_SHOWN]]
    if len(waiting) > _SHOWN:
        steps.append(f"Drop {count(len(waiting) - _SHOWN, 'more object')}.")
    findings = []
    for one in rows:
        if one.problem:
            address = NodeAddress.parse(one.node)
            findings.append(blocks(one.problem, address.compose_command("unpause")) if steps else warns(one.problem))
        elif one.state is OrphanState.GONE_NODE:
            message = f"{one.kind.value} {one.name} was on a node that has left ({one.node}); Citus keeps its record."
            findings.append(warns(message, one.remedy))
        elif one.state is OrphanState.UNRECORDED:
            message = f"Citus has no record of {one.kind.value} {one.name} on {one.node}, so a person must drop it."
            findings.append(warns(message, one.remedy))
    return Preview(tuple(steps), tuple(findings), OrphanDetails(tuple(rows)))


async def _clean_up(cluster: Cluster, _: object, preview: Preview, emit: Emit) -> CleanedUp:
    return await cluster.on_coordinator(lambda conn: clean_up(conn, emit))


async def clean_up(conn: Connection, emit: Emit) -> CleanedUp:
    """Let Citus drop what no operation uses. Raises BlockedError if a node does not answer: Citus would hang."""
    async with translated("dropping orphaned resources"):
        nodes = (await citus_nodes.read_registry(conn)).nodes
        before = await citus_consistency.orphans(conn, nodes)
        found = plan_cleanup(before)
        found.refuse()
        if not found.steps:
            emit(Event("cleanup", EventKind.SKIPPED, "Citus has nothing to drop"))
            return CleanedUp(0, _left(before))
        await citus_consistency.clean_up(conn)
        after = await citus_consistency.orphans(conn, nodes)
    waiting = {one.id for one in before if one.state is OrphanState.WAITS}
    kept = waiting & {one.id for one in after}
    emit(Event("cleanup", EventKind.DONE, f"{count(len(waiting - kept), 'object')} dropped"))
    if kept:
        message = f"{count(len(kept), 'object')} could not be dropped yet; the coordinator's log says why"
        emit(Event("cleanup", EventKind.WARNING, message, {"kept": sorted(kept)}))
    return CleanedUp(len(waiting - kept), _left(after))


def _left(rows: Sequence[OrphanRow]) -> tuple[OrphanRow, ...]:
    return tuple(one for one in rows if one.state is not OrphanState.IN_USE)


def _silence(silent: Mapping[NodeAddress, str]) -> list[Finding]:
    return [blocks(reason, address.compose_command("unpause")) for address, reason in silent.items()]


RESTORE_POINT = Change(
    name="consistency-restore-point",
    summary="Create a named position in the WAL of all nodes, to which backups can be restored together.",
    path="consistency/restore-points",
    command="consistency restore-point",
    parameters=NewRestorePoint,
    plan=_plan_restore_point,
    run=_create_restore_point,
    scope=lambda wanted: "restore point",
    creates=lambda result: True,
    completed=_completed_restore_point,
)

RECOVER = Change(
    name="consistency-recover",
    summary="Commit or roll back prepared transactions that are left over.",
    path="consistency/recover",
    command="consistency recover",
    parameters=NoParameters,
    plan=_plan_recovery,
    run=_recover,
    scope=lambda wanted: "prepared transactions",
)

CLEANUP = Change(
    name="consistency-cleanup",
    summary="Drop what moves and splits of shards left behind.",
    path="consistency/cleanup",
    command="consistency cleanup",
    parameters=NoParameters,
    plan=_plan_cleanup,
    run=_clean_up,
    scope=lambda wanted: "cleanup",
    lasts=True,
)
