"""Changes of what the cluster does now: ending statements and sessions, and switching statistics on."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AwareDatetime, Field

from citus_cluster.errors import NotFoundError
from citus_cluster.model.citus.activity import StatementRow
from citus_cluster.model.citus.blockers import split_global_pid
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.statistics import (
    NEEDS,
    Feature,
    Need,
    NodeFeature,
    enabling_steps,
    relevant,
    restart,
)
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.runtime.citus import activity as citus_activity
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import statistics as citus_statistics
from citus_cluster.runtime.postgres import Connection, translated

_LIST_HINT = "To list the sessions with their numbers: citus-cluster activity list --idle"
_ENDS_WITHIN_S = 5.0
_LOOK_AGAIN_S = 0.2


@parameters
class OneSession:
    """A session of the cluster."""

    global_pid: Annotated[
        int,
        Field(ge=1, le=2**63 - 1, description="Citus' number of the session, as the list of statements shows it."),
    ]
    started_at: Annotated[
        AwareDatetime | None,
        Field(
            description="Start of the statement, as the list shows it: another statement of the session is left alone.",
            examples=["2026-01-31T12:00:00.123456+00:00"],
        ),
    ] = None


@dataclass(frozen=True)
class SessionDetails(Documented):
    """The session that a change ends, as the plan found it."""

    session: StatementRow


@dataclass(frozen=True)
class Signalled(Documented):
    """The session that was signalled. ``signalled`` is False if it had ended before; ``ended``: it ended in time."""

    global_pid: int
    node: str
    signalled: bool
    ended: bool


async def _find(conn: Connection, cluster: Cluster, wanted: OneSession) -> tuple[RegisteredNode, StatementRow | str]:
    """Return the node of a session and the session, or why the node does not answer. Raises NotFoundError."""
    node_id, process_id = split_global_pid(wanted.global_pid)
    registry = cluster.complete(await citus_nodes.read_registry(conn))
    node = next((one for one in registry.nodes if one.node_id == node_id), None)
    if node is None or not 0 < process_id < 2**31:
        raise NotFoundError("No session of the cluster has this number.", hint=_LIST_HINT)
    silent = await citus_probe.silence(conn, [node])
    if silent:
        return node, silent[node.address]
    found = await citus_activity.session_of(conn, node, process_id)
    if found is None:
        raise NotFoundError(f"The session has ended, or {node.address} never had it.", hint=_LIST_HINT)
    if wanted.started_at is not None and found.started_at != wanted.started_at:
        raise NotFoundError(
            "The statement has ended; its session has begun another one since.",
            hint="To list the statements: citus-cluster activity list",
        )
    return node, found


async def _plan_cancel(cluster: Cluster, wanted: OneSession) -> Preview:
    return await _plan_signal(cluster, wanted, terminate=False)


async def _plan_terminate(cluster: Cluster, wanted: OneSession) -> Preview:
    return await _plan_signal(cluster, wanted, terminate=True)


async def _plan_signal(cluster: Cluster, wanted: OneSession, *, terminate: bool) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("looking for the session"):
            node, found = await _find(conn, cluster, wanted)
        if isinstance(found, str):
            return Preview(
                (f"Signal session {wanted.global_pid} on {node.address}.",),
                (blocks(found, node.address.compose_command("unpause")),),
            )
        findings = _doubts(found)
        if terminate:
            step = f"End {found.describe()}"
            step += "; its open transaction is rolled back." if found.in_transaction or found.is_running else "."
        elif found.is_running:
            step = f"Cancel the statement of {found.describe()}; its transaction is rolled back."
        elif found.in_transaction:
            step = f"Cancel the statement of {found.describe()}."
            command = f"citus-cluster activity terminate {wanted.global_pid}"
            findings.append(
                blocks(f"{found.describe()} runs no statement: it is {found.state}. Only its end frees locks.", command)
            )
        else:
            return Preview((), details=SessionDetails(found))
        return Preview((step,), tuple(findings), SessionDetails(found))

    return await cluster.on_coordinator(work)


def _doubts(found: StatementRow) -> list[Finding]:
    doubts = []
    if found.is_part:
        doubts.append(
            warns(
                f"{found.describe()} works for session {found.global_pid} of another node, whose statement fails.",
                f"citus-cluster activity cancel {found.global_pid}",
            )
        )
    if found.kind != "client backend":
        doubts.append(warns(f"{found.describe()} is a process of the server itself: {found.kind}."))
    if found.is_own:
        doubts.append(warns(f"{found.describe()} belongs to citus-cluster itself."))
    return doubts


async def _cancel(cluster: Cluster, wanted: OneSession, preview: Preview, emit: Emit) -> Signalled:
    return await _signal(cluster, wanted, preview, emit, terminate=False)


async def _terminate(cluster: Cluster, wanted: OneSession, preview: Preview, emit: Emit) -> Signalled:
    return await _signal(cluster, wanted, preview, emit, terminate=True)


async def _signal(cluster: Cluster, wanted: OneSession, preview: Preview, emit: Emit, *, terminate: bool) -> Signalled:
    """Signal the session that the plan showed, and wait a few seconds for the end of its statement."""
    planned = _planned(preview)
    node_id, process_id = split_global_pid(wanted.global_pid)
    step = f"{'terminate' if terminate else 'cancel'}:{wanted.global_pid}"
    started_at = planned.started_at if not terminate or wanted.started_at else None

    async def work(conn: Connection) -> tuple[RegisteredNode, bool, bool]:
        async with translated("ending the statement"):
            registry = cluster.complete(await citus_nodes.read_registry(conn))
            node = next((one for one in registry.nodes if one.node_id == node_id), None)
            if node is None or planned.session_started_at is None:
                raise NotFoundError("The node of the session is no longer in the node list.")
            if not preview.steps:
                return node, False, True
            signalled = await citus_activity.signal_session(
                conn,
                node,
                process_id,
                terminate=terminate,
                session_started_at=planned.session_started_at,
                started_at=started_at,
            )
            return node, signalled, await _ends(conn, node, process_id, planned, terminate=terminate)

    node, signalled, ended = await cluster.on_coordinator(work)
    what = "session" if terminate else "statement"
    if not signalled:
        emit(Event(step, EventKind.SKIPPED, f"the {what} had ended already"))
    elif ended:
        emit(Event(step, EventKind.DONE, f"the {what} has ended"))
    else:
        message = f"the {what} has not ended within {_ENDS_WITHIN_S:g} s; it ends at its next safe point"
        emit(Event(step, EventKind.WARNING, message))
    return Signalled(wanted.global_pid, str(node.address), signalled, ended)


def _planned(preview: Preview) -> StatementRow:
    assert isinstance(preview.details, SessionDetails)  # noqa: S101 - the plan of this change
    return preview.details.session


async def _ends(
    conn: Connection, node: RegisteredNode, process_id: int, planned: StatementRow, *, terminate: bool
) -> bool:
    deadline = asyncio.get_running_loop().time() + _ENDS_WITHIN_S
    while True:
        now = await citus_activity.session_of(conn, node, process_id)
        if now is None or now.session_started_at != planned.session_started_at:
            return True
        if not terminate and (not now.is_running or now.started_at != planned.started_at):
            return True
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_LOOK_AGAIN_S)


@parameters
class WhichFeature:
    """Statistics to switch on."""

    feature: Annotated[Feature, Field(description="Statistics to switch on: statements or tenants.")]
    every_node: Annotated[
        bool, Field(description="Also count statements on the workers; tenants are counted on every node anyway.")
    ] = False


@dataclass(frozen=True)
class EnabledFeature(Documented):
    """The feature that was switched on, and what was changed on each node."""

    feature: Feature
    nodes: Mapping[str, tuple[str, ...]]


async def _look(
    conn: Connection, cluster: Cluster, wanted: WhichFeature
) -> tuple[tuple[NodeFeature, ...], Mapping[str, RegisteredNode], list[Finding]]:
    nodes = cluster.complete(await citus_nodes.read_registry(conn)).nodes
    if wanted.feature is Feature.STATEMENTS and not wanted.every_node:
        nodes = tuple(node for node in nodes if node.is_coordinator)
    need = NEEDS[wanted.feature]
    found, silent = await citus_statistics.features(conn, nodes, need)
    found = relevant(wanted.feature, found, every_node=wanted.every_node)
    by_name = {str(node.address): node for node in nodes}
    return found, by_name, _findings(need, found, silent)


def _findings(need: Need, nodes: Sequence[NodeFeature], silent: Mapping[NodeAddress, str]) -> list[Finding]:
    found = [blocks(reason, address.compose_command("unpause")) for address, reason in silent.items()]
    for one in nodes:
        if fix := restart(need, one):
            found.append(blocks(f"{one.node} does not load {need.extension} at its start: it must be restarted.", fix))
    if any(one.missing_settings(need) for one in nodes):
        found += [warns(need.cost)] if need.cost else []
        found.append(
            warns(
                "ALTER SYSTEM overrides cluster.yaml until ALTER SYSTEM RESET.",
                "To keep the settings for nodes that are added later, write them into cluster.yaml.",
            )
        )
    return found


async def _plan_enabling(cluster: Cluster, wanted: WhichFeature) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking what is missing"):
            found, _, findings = await _look(conn, cluster, wanted)
        return Preview(enabling_steps(NEEDS[wanted.feature], found), tuple(findings))

    return await cluster.on_coordinator(work)


async def _enable(cluster: Cluster, wanted: WhichFeature, preview: Preview, emit: Emit) -> EnabledFeature:
    need = NEEDS[wanted.feature]

    async def work(conn: Connection) -> Mapping[str, tuple[str, ...]]:
        done = {}
        async with translated("switching the statistics on"):
            found, nodes, _ = await _look(conn, cluster, wanted)
            for one in found:
                node = nodes[str(one.node)]
                missing = one.missing(need)
                if need.extension and one.schema is None:
                    await citus_statistics.create_extension(conn, node, need.extension)
                settings = one.missing_settings(need)
                if settings:
                    await citus_statistics.set_parameters(conn, node, settings)
                kind = EventKind.DONE if missing else EventKind.SKIPPED
                message = f"{one.node}: {', '.join(missing)}" if missing else f"{one.node} collects them already"
                emit(Event(f"enable:{one.node}", kind, message))
                done[str(one.node)] = missing
        return done

    return EnabledFeature(wanted.feature, await cluster.on_coordinator(work))


def _scope_of_session(wanted: OneSession) -> str:
    return f"session {wanted.global_pid}"


CANCEL = Change(
    name="activity-cancel",
    summary="Cancel the running statement of a session, on whichever node it is.",
    path="activity/cancel",
    command="activity cancel",
    parameters=OneSession,
    plan=_plan_cancel,
    run=_cancel,
    scope=_scope_of_session,
)

TERMINATE = Change(
    name="activity-terminate",
    summary="End a session, on whichever node it is, and roll back its transaction.",
    path="activity/terminate",
    command="activity terminate",
    parameters=OneSession,
    plan=_plan_terminate,
    run=_terminate,
    scope=_scope_of_session,
    asks=True,
)

ENABLE = Change(
    name="activity-enable",
    summary="Switch on the statistics of statements or tenants, as far as no restart is needed.",
    path="activity/enable",
    command="activity enable",
    parameters=WhichFeature,
    plan=_plan_enabling,
    run=_enable,
    scope=lambda wanted: "statistics",
)
