"""Declared changes of one node in the node list: activate, disable, and whether it may hold shards.

Other modules add nodes (``joining``), change their address (``moving``), pause them (``maintenance``), and remove them
(``leaving``).
"""

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import UntrustedCodeError, UsageError
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.removal import called, find_shard_targets
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.model.units import count
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes import registration
from citus_cluster.operations.nodes.lookup import ChangedNode, NodeName, OneNode, find_node
from citus_cluster.operations.nodes.node_list import (
    changing,
    disabling_findings,
    moves_block,
    others_block,
    silent_others,
)
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import removal as citus_leaving
from citus_cluster.runtime.postgres import Connection, translated

SCOPE = "nodes"


@parameters
class Activation:
    """A node to activate."""

    node: NodeName
    trust_functions: Annotated[
        bool,
        Field(description="Proceed even if code of ordinary roles would run as the superuser on the node."),
    ] = False


@parameters
class ShardsOf:
    """A node, and whether it may hold shards."""

    node: NodeName
    holds_shards: Annotated[bool | None, Field(description="Whether Citus may place shards on the node.")] = None


@dataclass(frozen=True)
class Disabling:
    """How a node is disabled."""

    node: RegisteredNode
    preview: Preview
    synchronous: bool = True


def report(emit: Emit, step: str, changed: bool, message: str) -> None:
    """Report the end of a change of a node."""
    emit(Event(step, EventKind.DONE if changed else EventKind.SKIPPED, message))


def maintained(node: RegisteredNode) -> tuple[Finding, ...]:
    """Return a finding if a node is in maintenance, whose end restores its state."""
    if not node.in_maintenance:
        return ()
    return (blocks(f"{node.address} is in maintenance.", f"citus-cluster nodes resume {called(node.address)}"),)


async def activation_findings(conn: Connection, node: RegisteredNode, *, trust_functions: bool) -> tuple[Finding, ...]:
    """Return what prevents the activation of a node: it does not answer, or code would run there as the superuser."""
    silent = await citus_probe.silence(conn, [replace(node, is_active=True)])
    findings = [blocks(reason, node.address.compose_command("start")) for reason in silent.values()]
    if not trust_functions:
        try:
            await registration.refuse_untrusted(conn, node.address)
        except UntrustedCodeError as error:
            findings.append(blocks(error.message, error.hint))
    return tuple(findings)


async def _plan_activation(cluster: Cluster, wanted: Activation) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the node"):
            return (await _examine_activation(cluster, conn, wanted))[1]

    return await cluster.on_coordinator(work)


async def _examine_activation(cluster: Cluster, conn: Connection, wanted: Activation) -> tuple[RegisteredNode, Preview]:
    nodes = (await citus_nodes.read_registry(conn)).nodes
    node = await find_node(conn, cluster, wanted.node)
    if node.is_active:
        return node, Preview(())
    findings = maintained(node) + await activation_findings(conn, node, trust_functions=wanted.trust_functions)
    findings += others_block(node.address, await silent_others(cluster, conn, nodes, but=node))
    findings += (
        warns(
            "Citus copies the reference tables to it later, before a shard is placed there.",
            "SELECT replicate_reference_tables();",
        ),
    )
    return node, Preview((f"Activate {node.address}, and copy the metadata to it.",), findings)


async def _activate(cluster: Cluster, wanted: Activation, preview: Preview, emit: Emit) -> ChangedNode:
    async def work(conn: Connection) -> ChangedNode:
        node = await find_node(conn, cluster, wanted.node)
        async with changing(conn, node.address, f"activating {node.address}"):
            node, now = await _examine_activation(cluster, conn, wanted)
            now.refuse()
            if now.steps:
                await citus_nodes.activate_worker(conn, node.address, timeout_s=citus_nodes.CHANGE_TIMEOUT_S)
        report(emit, f"activate:{node.address}", bool(now.steps), f"{node.address} is active")
        return ChangedNode(str(node.address), bool(now.steps))

    return await cluster.on_coordinator(work)


async def _plan_disabling(cluster: Cluster, wanted: OneNode) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the node"):
            return (await _examine_disabling(cluster, conn, wanted)).preview

    return await cluster.on_coordinator(work)


async def _examine_disabling(cluster: Cluster, conn: Connection, wanted: OneNode) -> Disabling:
    nodes = (await citus_nodes.read_registry(conn)).nodes
    node = await find_node(conn, cluster, wanted.node)
    if node.is_coordinator and node.role == "primary":
        raise UsageError("The coordinator cannot be disabled.", hint="Name a worker or a standby.")
    if not node.is_active:
        return Disabling(node, Preview(()))
    findings, synchronous = await disabling_findings(cluster, conn, node, nodes)
    how = "and tell every node at once" if synchronous else "and let the other nodes learn of it in the background"
    steps = (
        f"Disable {node.address} in the node list, {how}. Citus sends it no query until it is activated again; its "
        "data stay.",
    )
    return Disabling(node, Preview(steps, maintained(node) + findings), synchronous)


async def _disable(cluster: Cluster, wanted: OneNode, preview: Preview, emit: Emit) -> ChangedNode:
    async def work(conn: Connection) -> ChangedNode:
        node = await find_node(conn, cluster, wanted.node)
        async with changing(conn, node.address, f"disabling {node.address}"):
            found = await _examine_disabling(cluster, conn, wanted)
            found.preview.refuse()
            if found.preview.steps:
                await citus_nodes.disable_node(conn, node.address, synchronous=found.synchronous)
        changed = bool(found.preview.steps)
        report(emit, f"disable:{node.address}", changed, f"{node.address} is disabled")
        return ChangedNode(str(node.address), changed)

    return await cluster.on_coordinator(work)


async def _plan_setting(cluster: Cluster, wanted: ShardsOf) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the node"):
            return (await _examine_setting(cluster, conn, wanted))[1]

    return await cluster.on_coordinator(work)


async def _examine_setting(cluster: Cluster, conn: Connection, wanted: ShardsOf) -> tuple[RegisteredNode, Preview]:
    if wanted.holds_shards is None:
        raise UsageError("holds_shards is missing.", hint="Say --holds-shards or --no-holds-shards.")
    nodes = (await citus_nodes.read_registry(conn)).nodes
    node = await find_node(conn, cluster, wanted.node)
    if node.role != "primary":
        raise UsageError(
            f"{node.address} is a {node.role}, which has the shards of its primary.", hint="Name its primary."
        )
    if node.should_have_shards == wanted.holds_shards:
        return node, Preview(())
    findings = list(maintained(node))
    if wanted.holds_shards:
        step = f"Let {node.address} hold shards: new tables get shards there, and the next rebalance moves some to it."
        if node.is_coordinator:
            findings.append(warns("The coordinator then also stores and queries shards, beside planning all queries."))
    else:
        step = f"Let {node.address} get no new shards. No shard moves now."
        findings += await _losing(conn, node, nodes)
    findings += others_block(node.address, await silent_others(cluster, conn, nodes))
    return node, Preview((step,), tuple(findings))


async def _losing(conn: Connection, node: RegisteredNode, nodes: tuple[RegisteredNode, ...]) -> tuple[Finding, ...]:
    findings = list(await moves_block(conn, node))
    if node.is_active and not find_shard_targets(node, nodes):
        findings.append(
            blocks(
                f"No other active node may hold shards, so no table could be distributed without {node.address}.",
                "citus-cluster nodes add --host HOST",
            )
        )
    if held := len(await citus_leaving.held_placements(conn, node.group_id)):
        findings.append(
            warns(
                f"Its {count(held, 'shard')} stay there for now, and this is the mark of a drain: any rebalance moves "
                "them to other nodes.",
                f"citus-cluster nodes drain {called(node.address)} --wait",
            )
        )
    return tuple(findings)


async def _set(cluster: Cluster, wanted: ShardsOf, preview: Preview, emit: Emit) -> ChangedNode:
    async def work(conn: Connection) -> ChangedNode:
        node = await find_node(conn, cluster, wanted.node)
        async with changing(conn, node.address, f"changing {node.address}"):
            _, now = await _examine_setting(cluster, conn, wanted)
            now.refuse()
            if now.steps:
                await citus_leaving.set_should_have_shards(conn, [node.address], bool(wanted.holds_shards))
        may = "may hold shards" if wanted.holds_shards else "gets no new shards"
        report(emit, f"set:{node.address}", bool(now.steps), f"{node.address} {may}")
        return ChangedNode(str(node.address), bool(now.steps))

    return await cluster.on_coordinator(work)


ACTIVATE = Change(
    name="nodes-activate",
    summary="Activate a node that was disabled or added as inactive.",
    path="nodes/activate",
    command="nodes activate",
    parameters=Activation,
    plan=_plan_activation,
    run=_activate,
    scope=lambda wanted: SCOPE,
)

DISABLE = Change(
    name="nodes-disable",
    summary="Disable a node whose shards other nodes have too; Citus sends it no query until it is activated.",
    path="nodes/disable",
    command="nodes disable",
    parameters=OneNode,
    plan=_plan_disabling,
    run=_disable,
    scope=lambda wanted: SCOPE,
)

SET = Change(
    name="nodes-set",
    summary="Set whether Citus may place shards on a node.",
    path="nodes/set",
    command="nodes set",
    parameters=ShardsOf,
    plan=_plan_setting,
    run=_set,
    scope=lambda wanted: SCOPE,
)
