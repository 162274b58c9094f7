"""Declared changes that pause a node for maintenance, such as a restart or a new image, and resume it afterwards.

A node in maintenance gets no new shards, and is disabled if other nodes have everything that it holds. The coordinator
records the state before, so that the end of the maintenance restores exactly that.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import UntrustedCodeError, UsageError
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.removal import called, find_shard_targets
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Finding, Preview, warns
from citus_cluster.model.units import count
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes import registration
from citus_cluster.operations.nodes.changes import SCOPE, Activation, activation_findings, report
from citus_cluster.operations.nodes.lookup import ChangedNode, NodeName, find_node
from citus_cluster.operations.nodes.node_list import (
    changing,
    disabling_findings,
    held_by,
    listed,
    moves_block,
    others_block,
    silent_others,
)
from citus_cluster.runtime.citus import maintenance as citus_maintenance
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import removal as citus_leaving
from citus_cluster.runtime.citus.maintenance import Maintenance
from citus_cluster.runtime.postgres import Connection, translated


@parameters
class Pause:
    """A node to pause, and why."""

    node: NodeName
    reason: Annotated[
        str | None,
        Field(
            max_length=200,
            pattern=r"^[^\x00-\x1f\x7f]*$",
            description="Why, for other operators.",
            examples=["new kernel"],
        ),
    ] = None


@dataclass(frozen=True)
class PausedNode(Documented):
    """The node in maintenance; ``disabled``: Citus sends it no query; ``following`` are the next commands."""

    node: str
    changed: bool
    disabled: bool
    following: tuple[str, ...]


@dataclass(frozen=True)
class Pausing:
    """How a node is paused."""

    node: RegisteredNode
    preview: Preview
    disable: bool = False
    synchronous: bool = True
    is_recorded: bool = False


@dataclass(frozen=True)
class Resuming:
    """How a node returns from maintenance."""

    node: RegisteredNode
    preview: Preview
    record: Maintenance | None = None


async def _plan_pause(cluster: Cluster, wanted: Pause) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the node"):
            return (await _examine_pause(cluster, conn, wanted)).preview

    return await cluster.on_coordinator(work)


async def _examine_pause(cluster: Cluster, conn: Connection, wanted: Pause) -> Pausing:
    nodes = (await citus_nodes.read_registry(conn)).nodes
    node = await find_node(conn, cluster, wanted.node)
    if node.is_coordinator and node.role == "primary":
        raise UsageError(
            "The coordinator cannot be paused: every query needs it.",
            hint="Restart it while clients can wait: docker compose restart citus-coordinator",
        )
    is_recorded = node.node_id in await citus_maintenance.read_all(conn)
    findings, disable, synchronous = await _how_to_disable(cluster, conn, node, nodes)
    steps = []
    if not is_recorded:
        steps.append(f"Record that {node.address} is in maintenance, with its state, which nodes resume restores.")
    if node.should_have_shards and node.role == "primary":
        steps.append(f"Let {node.address} get no new shards. No shard moves.")
    if disable:
        steps.append(f"Disable {node.address}: Citus sends it no query, so that no query waits for it or fails.")
    if not steps:
        return Pausing(node, Preview(()), is_recorded=True)
    findings = (*await moves_block(conn, node), *findings)
    findings += others_block(node.address, await silent_others(cluster, conn, nodes, but=node))
    findings += _meaning(node, nodes)
    return Pausing(node, Preview(tuple(steps), findings), disable, synchronous, is_recorded)


async def _how_to_disable(
    cluster: Cluster, conn: Connection, node: RegisteredNode, nodes: tuple[RegisteredNode, ...]
) -> tuple[tuple[Finding, ...], bool, bool]:
    """Return what to know, whether disabling the node is safe, and whether it is done synchronously."""
    if not node.is_active:
        return (), False, True
    if held := await held_by(conn, node):
        # Even if there are other copies: an activation drops the node's own from the metadata (ActivateNodeList).
        return (
            (
                warns(
                    f"{node.address} stays enabled, because it holds {count(held.total(), 'shard')}: {listed(held)}. "
                    "While it is down, queries that need it fail, and so do writes to reference tables and schema "
                    "changes; other queries work.",
                    f"citus-cluster nodes drain {called(node.address)} --wait",
                ),
            ),
            False,
            True,
        )
    try:
        await registration.refuse_untrusted(conn, node.address)
    except UntrustedCodeError as error:
        return (warns(f"{node.address} stays enabled: {error.message}", error.hint),), False, True
    findings, synchronous = await disabling_findings(cluster, conn, node, nodes)
    return (), not any(one.severity == "blocks" for one in findings), synchronous


def _meaning(node: RegisteredNode, nodes: tuple[RegisteredNode, ...]) -> tuple[Finding, ...]:
    findings = []
    if node.should_have_shards and node.role == "primary":
        findings.append(
            warns("Until the node is resumed, no rebalance or drain starts that would move its shards to other nodes.")
        )
        if node.is_active and not find_shard_targets(node, nodes):
            findings.append(warns("No other active node may hold shards, so no table can be distributed meanwhile."))
    return tuple(findings)


async def _pause(cluster: Cluster, wanted: Pause, preview: Preview, emit: Emit) -> PausedNode:
    async def work(conn: Connection) -> PausedNode:
        node = await find_node(conn, cluster, wanted.node)
        async with changing(conn, node.address, f"pausing {node.address}"):
            found = await _examine_pause(cluster, conn, wanted)
            found.preview.refuse()
            if found.preview.steps:
                await _rest(conn, found, wanted.reason)
        node = await find_node(conn, cluster, str(node.address))
        changed = bool(found.preview.steps)
        report(emit, f"pause:{node.address}", changed, f"{node.address} is in maintenance")
        restart = node.address.compose_command("restart")
        resume = f"citus-cluster nodes resume {called(node.address)}"
        return PausedNode(str(node.address), changed, not node.is_active, (restart, resume))

    return await cluster.on_coordinator(work)


async def _rest(conn: Connection, found: Pausing, reason: str | None) -> None:
    node = found.node
    if not found.is_recorded:
        # First, so that after an interruption the state before is known, and both commands continue.
        await citus_maintenance.record(
            conn, node.node_id, was_active=node.is_active, held_shards=node.should_have_shards, reason=reason
        )
    if node.should_have_shards and node.role == "primary":
        await citus_leaving.set_should_have_shards(conn, [node.address], False)
    if found.disable:
        await citus_nodes.disable_node(conn, node.address, synchronous=found.synchronous)


async def _plan_resume(cluster: Cluster, wanted: Activation) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the node"):
            return (await _examine_resume(cluster, conn, wanted)).preview

    return await cluster.on_coordinator(work)


async def _examine_resume(cluster: Cluster, conn: Connection, wanted: Activation) -> Resuming:
    nodes = (await citus_nodes.read_registry(conn)).nodes
    node = await find_node(conn, cluster, wanted.node)
    record = (await citus_maintenance.read_all(conn)).get(node.node_id)
    if record is None:
        return Resuming(node, Preview(()))
    steps = []
    if record.was_active and not node.is_active:
        steps.append(
            f"Activate {node.address}, and copy the metadata and the reference tables to it, which changed meanwhile."
        )
    if record.held_shards and not node.should_have_shards and node.role == "primary":
        steps.append(f"Let {node.address} get new shards again.")
    findings: tuple[Finding, ...] = ()
    if record.was_active:
        trusted = wanted.trust_functions or node.is_active
        findings += await activation_findings(conn, node, trust_functions=trusted)
    if steps:
        findings += others_block(node.address, await silent_others(cluster, conn, nodes, but=node))
    steps.append(f"End the maintenance of {node.address}, which began at {record.since:%Y-%m-%d %H:%M} UTC.")
    return Resuming(node, Preview(tuple(steps), findings), record)


async def _resume(cluster: Cluster, wanted: Activation, preview: Preview, emit: Emit) -> ChangedNode:
    async def work(conn: Connection) -> ChangedNode:
        node = await find_node(conn, cluster, wanted.node)
        async with changing(conn, node.address, f"resuming {node.address}"):
            found = await _examine_resume(cluster, conn, wanted)
            found.preview.refuse()
            if found.record:
                await _return(conn, found.node, found.record)
        changed = found.record is not None
        report(emit, f"resume:{node.address}", changed, f"{node.address} is not in maintenance")
        return ChangedNode(str(node.address), changed)

    return await cluster.on_coordinator(work)


async def _return(conn: Connection, node: RegisteredNode, record: Maintenance) -> None:
    if record.was_active and not node.is_active:
        await citus_nodes.activate_worker(conn, node.address, timeout_s=citus_nodes.CHANGE_TIMEOUT_S)
    if record.was_active:
        await citus_nodes.copy_reference_tables(conn)
    if record.held_shards and node.role == "primary":
        await citus_leaving.set_should_have_shards(conn, [node.address], True)
    # Last, so that after an interruption the same command continues.
    await citus_maintenance.forget(conn, node.node_id)


PAUSE = Change(
    name="nodes-pause",
    summary="Pause a node for maintenance: it gets no new shards, and no query where other nodes have its shards.",
    path="nodes/pause",
    command="nodes pause",
    parameters=Pause,
    plan=_plan_pause,
    run=_pause,
    scope=lambda wanted: SCOPE,
)

RESUME = Change(
    name="nodes-resume",
    summary="End the maintenance of a node, and restore its state before.",
    path="nodes/resume",
    command="nodes resume",
    parameters=Activation,
    plan=_plan_resume,
    run=_resume,
    scope=lambda wanted: SCOPE,
    lasts=True,
)
