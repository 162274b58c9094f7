"""Declared changes that add nodes: a worker, a worker that is not active yet, and a standby of a node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from citus_cluster.errors import (
    AuthenticationError,
    MismatchError,
    UntrustedCodeError,
    UsageError,
    WorkerUnreachableError,
)
from citus_cluster.model.citus.nodes import NodeAddress, NodeDocument
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.model.citus.registration import NodeIdentity, RegisteredNode, Registry, standby_problem
from citus_cluster.model.documents import Documented
from citus_cluster.model.names import host_problem
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Finding, Preview, blocks, refusal, warns
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes import registration
from citus_cluster.operations.nodes.changes import SCOPE, report
from citus_cluster.operations.nodes.lookup import ChangedNode, NodeName, find_node
from citus_cluster.operations.nodes.node_list import changing, others_block, silent_others
from citus_cluster.operations.rebalance import watch
from citus_cluster.operations.rebalance.changes import Wait
from citus_cluster.operations.rebalance.use_cases import carry_out
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.postgres import Connection, translated


def _host(value: str) -> str:
    if host_problem(value):
        # The model's own message repeats the value, which an answer over HTTP must not do.
        raise ValueError("This is not a host name or IP address.")
    return value


Host = Annotated[
    str,
    AfterValidator(_host),
    Field(
        min_length=1,
        max_length=253,
        description="Name or address at which the coordinator and the other nodes reach the server.",
        examples=["citus-worker4"],
    ),
]
Port = Annotated[int, Field(ge=1, le=65535, description="Port of the server at that address.")]


@parameters
class NewWorker:
    """A worker to register."""

    host: Host
    port: Port = 5432
    trust_functions: Annotated[
        bool,
        Field(
            description="Proceed even if code of ordinary roles in reference tables would run as the superuser on the "
            "worker; its owners could become superuser there."
        ),
    ] = False
    rebalance: Annotated[bool, Field(description="Also start a rebalance, which moves shards to the worker.")] = False
    online: Annotated[bool, Field(description="With rebalance: let no shard hold writes while it moves.")] = False
    wait: Wait = False


@parameters
class NewServer:
    """A server to add as an inactive worker."""

    host: Host
    port: Port = 5432


@parameters
class NewSecondary:
    """A standby to add."""

    host: Host
    primary: Annotated[
        NodeName | None, Field(description="Node of which the server is a standby, as in the node list.")
    ] = None
    port: Port = 5432


@dataclass(frozen=True)
class AddedWorker(Documented):
    """The outcome for the worker, and the rebalance that was started, if any, with its result if that was awaited."""

    node: NodeDocument
    job_id: int | None = None
    rebalance: RebalanceStatus | None = None


def _itself(address: NodeAddress) -> UsageError:
    return UsageError(f"{address} is the coordinator itself; a worker must be another server.")


async def _plan_addition(cluster: Cluster, wanted: NewWorker) -> Preview:
    worker = NodeAddress(wanted.host, wanted.port)
    if wanted.wait and not wanted.rebalance:
        raise UsageError("--wait waits for a rebalance, but none was requested.", hint="Add --rebalance.")

    async def work(conn: Connection) -> Preview:
        async with translated(f"checking {worker}"):
            registry = await citus_nodes.read_registry(conn)
            node = registry.find(worker)
            if node is not None and node.is_coordinator:
                raise _itself(worker)
            steps: tuple[str, ...] = ()
            findings: tuple[Finding, ...] = ()
            if node is None or not node.is_active:
                steps = _addition_steps(worker, node, registry)
                findings = await _addition_findings(cluster, conn, wanted, worker, registry)
            if wanted.rebalance:
                steps += ("Start a rebalance, which moves shards to the worker.",)
            return Preview(steps, findings)

    return await cluster.on_coordinator(work)


def _addition_steps(worker: NodeAddress, node: RegisteredNode | None, registry: Registry) -> tuple[str, ...]:
    if node is not None:
        return (f"Activate {worker}, and copy the metadata to it.",)
    here = registry.coordinator
    first = here is not None and here.should_have_shards and not registry.has_workers
    return (
        f"Register {worker}, and copy the metadata, the roles and their credentials to it. No shard moves.",
        *(("Let the coordinator get no new shards from now on.",) if first else ()),
    )


async def _addition_findings(
    cluster: Cluster, conn: Connection, wanted: NewWorker, worker: NodeAddress, registry: Registry
) -> tuple[Finding, ...]:
    here = cluster.coordinator or await registration.registered_coordinator(conn)
    if worker == here:
        raise _itself(worker)
    patience = f"the run waits up to {cluster.patience_s():.0f} s for it"
    silent = await silent_others(cluster, conn, registry.nodes, but=registry.find(worker))
    findings = [warns(f"Citus must tell every active node of {worker}: {line} {patience}.") for line in silent]
    findings += await _candidate_findings(conn, here, worker, registry, patience=patience)
    if not wanted.trust_functions:
        try:
            await registration.refuse_untrusted(conn, worker)
        except UntrustedCodeError as error:
            findings.append(refusal(error))
    return tuple(findings)


async def _candidate_findings(
    conn: Connection, here: NodeAddress, worker: NodeAddress, registry: Registry, *, patience: str
) -> Sequence[Finding]:
    try:
        own = await citus_probe.own_identity(conn)
        await registration.check_candidate(conn, here, worker, own, registry)
    except (MismatchError, AuthenticationError) as error:
        return (refusal(error),)
    except WorkerUnreachableError as error:
        return (warns(f"{error.message} It must answer first; {patience}.", error.hint),)
    return ()


async def _add(cluster: Cluster, wanted: NewWorker, preview: Preview, emit: Emit) -> AddedWorker:
    worker = NodeAddress(wanted.host, wanted.port)
    node = await cluster.on_coordinator(
        lambda conn: registration.add_worker(
            conn,
            cluster.coordinator,
            worker,
            emit,
            timeout_s=cluster.patience_s(),
            wait_for_lock_s=cluster.lock_wait_s,
            trust_functions=wanted.trust_functions,
        )
    )
    if not wanted.rebalance:
        return AddedWorker(node.document())
    options = RebalanceOptions(trust_functions=wanted.trust_functions, online=wanted.online)
    started = await carry_out(cluster.on_coordinator, options, emit, wait=wanted.wait)
    return AddedWorker(node.document(), started.job_id, started.rebalance)


async def _follow_addition(cluster: Cluster, wanted: NewWorker, job_id: int, emit: Emit) -> AddedWorker:
    added = await _add(cluster, replace(wanted, rebalance=False, wait=False), Preview(()), emit)
    ended = await watch.follow(cluster.on_coordinator, emit, int(job_id)) if wanted.wait else None
    return replace(added, job_id=int(job_id), rebalance=ended)


def _outcome(result: Mapping[str, Any]) -> Mapping[str, object]:
    told = {"outcome": result["node"]["outcome"]}
    return told if result["job_id"] is None else told | {"job_id": result["job_id"]}


async def _plan_inactive(cluster: Cluster, wanted: NewServer) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the server"):
            return await _examine_inactive(cluster, conn, wanted)

    return await cluster.on_coordinator(work)


async def _examine_inactive(cluster: Cluster, conn: Connection, wanted: NewServer) -> Preview:
    worker = NodeAddress(wanted.host, wanted.port)
    registry = await citus_nodes.read_registry(conn)
    here = cluster.coordinator or await registration.registered_coordinator(conn)
    if worker == here:
        raise _itself(worker)
    if registry.find(worker):
        return Preview(())
    findings = others_block(worker, await silent_others(cluster, conn, registry.nodes))
    findings += tuple(
        await _candidate_findings(conn, here, worker, registry, patience="until then it cannot be activated")
    )
    step = f"Add {worker} to the node list without activating it. It gets no query and no shard before nodes activate."
    return Preview((step,), findings)


async def _add_inactive(cluster: Cluster, wanted: NewServer, preview: Preview, emit: Emit) -> ChangedNode:
    worker = NodeAddress(wanted.host, wanted.port)

    async def work(conn: Connection) -> ChangedNode:
        async with changing(conn, worker, f"adding {worker}"):
            now = await _examine_inactive(cluster, conn, wanted)
            now.refuse()
            if now.steps:
                if (await citus_nodes.read_registry(conn)).recorded is None:
                    await citus_nodes.create_record(conn)
                await citus_nodes.add_inactive(conn, worker)
        report(emit, f"add:{worker}", bool(now.steps), f"{worker} is in the node list")
        return ChangedNode(str(worker), bool(now.steps))

    return await cluster.on_coordinator(work)


async def _plan_secondary(cluster: Cluster, wanted: NewSecondary) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the standby"):
            return (await _examine_secondary(cluster, conn, wanted))[1]

    return await cluster.on_coordinator(work)


async def _examine_secondary(
    cluster: Cluster, conn: Connection, wanted: NewSecondary
) -> tuple[RegisteredNode, Preview]:
    if wanted.primary is None:
        raise UsageError("primary is missing.", hint="Name the node of which the server is a standby: --primary NODE")
    standby = NodeAddress(wanted.host, wanted.port)
    registry = await citus_nodes.read_registry(conn)
    primary = await find_node(conn, cluster, wanted.primary)
    if primary.role != "primary":
        raise UsageError(f"{primary.address} is a {primary.role} itself.", hint="Name the primary of the group.")
    known = registry.find(standby)
    if known is not None and known.group_id == primary.group_id and known.role == "secondary":
        return primary, Preview(())
    if known is not None:
        finding = blocks(
            f"{standby} is in the node list already, as a {known.role} of group {known.group_id}.",
            f"citus-cluster nodes remove {standby}",
        )
        return primary, Preview((_secondary_step(standby, primary),), (finding,))
    findings = list(others_block(standby, await silent_others(cluster, conn, registry.nodes)))
    findings += await _standby_findings(conn, standby, primary)
    findings.append(
        warns(
            "Only sessions that begin with citus.use_secondary_nodes = 'always' read from standbys; such a session "
            "cannot write, and every group with shards needs a standby. Standbys lag behind: what was just written may "
            "be missing. Promotion is not automatic: promote the standby, then move the primary's address with "
            "citus-cluster nodes move."
        )
    )
    return primary, Preview((_secondary_step(standby, primary),), tuple(findings))


def _secondary_step(standby: NodeAddress, primary: RegisteredNode) -> str:
    return f"Add {standby} to the node list as a secondary of {primary.address} (group {primary.group_id})."


async def _standby_findings(conn: Connection, standby: NodeAddress, primary: RegisteredNode) -> Sequence[Finding]:
    try:
        its = await citus_probe.identity(conn, standby)
        own = await identity_of(conn, primary)
    except citus_probe.ProbeUnavailableError:
        return (warns(f"Whether {standby} is a standby of {primary.address} could not be checked: dblink is missing."),)
    except (AuthenticationError, WorkerUnreachableError) as error:
        return (blocks(error.message, error.hint),)
    problem = standby_problem(its, own)
    if problem is None:
        return ()
    return (
        blocks(
            f"{standby} is not a standby of {primary.address}: {problem}. A secondary is a physical standby, which "
            "pg_basebackup creates from its primary and which replays its WAL.",
            f"pg_basebackup -h {primary.address.host} -p {primary.address.port} -U postgres -R -X stream -D DATA",
        ),
    )


async def identity_of(conn: Connection, node: RegisteredNode) -> NodeIdentity:
    """Return the identity of a registered node; the coordinator is this connection's server."""
    if node.is_coordinator and node.role == "primary":
        return await citus_probe.own_identity(conn)
    return await citus_probe.identity(conn, node.address, registered=True)


async def _add_secondary(cluster: Cluster, wanted: NewSecondary, preview: Preview, emit: Emit) -> ChangedNode:
    standby = NodeAddress(wanted.host, wanted.port)

    async def work(conn: Connection) -> ChangedNode:
        async with changing(conn, standby, f"adding {standby}"):
            primary, now = await _examine_secondary(cluster, conn, wanted)
            now.refuse()
            if now.steps:
                await citus_nodes.add_secondary(conn, standby, primary.address)
        report(emit, f"add:{standby}", bool(now.steps), f"{standby} is a secondary of {primary.address}")
        return ChangedNode(str(standby), bool(now.steps))

    return await cluster.on_coordinator(work)


ADD = Change(
    name="add-worker",
    summary="Register a worker with the coordinator. Shards move only with --rebalance.",
    path="nodes",
    command="nodes add",
    parameters=NewWorker,
    plan=_plan_addition,
    run=_add,
    scope=lambda wanted: SCOPE,
    lasts=lambda wanted: wanted.rebalance,
    outcome=_outcome,
    notes=frozenset({"outcome", "job_id"}),
    creates=lambda result: result["node"]["outcome"] == "added",
    continues="job_id",
    follow=_follow_addition,
    options=frozenset({"host"}),
)
"""The journal has known registrations by this name since before there were declared changes."""

ADD_INACTIVE = Change(
    name="nodes-add-inactive",
    summary="Add a worker to the node list without activating it.",
    path="nodes/add-inactive",
    command="nodes add-inactive",
    parameters=NewServer,
    plan=_plan_inactive,
    run=_add_inactive,
    creates=lambda result: bool(result["changed"]),
    scope=lambda wanted: SCOPE,
)

ADD_SECONDARY = Change(
    name="nodes-add-secondary",
    summary="Add a physical standby of a node to the node list, for reads.",
    path="nodes/add-secondary",
    command="nodes add-secondary",
    parameters=NewSecondary,
    plan=_plan_secondary,
    run=_add_secondary,
    creates=lambda result: bool(result["changed"]),
    scope=lambda wanted: SCOPE,
)
