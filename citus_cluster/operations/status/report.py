"""The state of a cluster: its services, its nodes, and their differences from the wanted state."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from citus_cluster.errors import CitusClusterError, EngineUnavailableError
from citus_cluster.model.citus.capacity import lost_slots_problem
from citus_cluster.model.citus.extension import OUTDATED, UPDATE_HINT
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.overview import NodeOverview, Overview, TableOverview
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.removal import called
from citus_cluster.model.companion_status import CompanionStatus, Condition, timed_out, with_lacks
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component import Service
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.disks import Disk, disk_alerts
from citus_cluster.model.documents import Documented
from citus_cluster.model.plan.causes import probable_cause
from citus_cluster.model.topology import Topology
from citus_cluster.operations import inspection
from citus_cluster.operations.access import Access, AccessDocument, access
from citus_cluster.operations.companions import Companions
from citus_cluster.operations.containers import last_log_lines
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.listeners import Listeners
from citus_cluster.operations.start.preflight import project_findings
from citus_cluster.operations.start.preparation import lacks_of
from citus_cluster.operations.status.disks import local_disks
from citus_cluster.operations.status.overview import overview
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread
from citus_cluster.runtime.docker.project import Project
from citus_cluster.runtime.postgres import connect
from citus_cluster.runtime.probes.cassandra import RingNode, nodetool_status
from citus_cluster.runtime.store import journal

_CONNECT_TIMEOUT_S = 3.0
_OVERVIEW_TIMEOUT_S = 25.0
_COMPANIONS_TIMEOUT_S = 5.0
_PATIENCE = 3
"""The factor for the time limit of the second attempt, before a service is reported as down."""
_HEALTH_AGAIN_TIMEOUT_S = 30.0
_STOPPED = {0, 130, 137, 143}
"""Exit statuses of processes that were stopped or killed from outside: their logs do not contain the reason."""


class State(StrEnum):
    """State of the whole cluster.

    It is down if its coordinator does not answer; without a coordinator, if no worker does; without Citus, if no
    service does.
    """

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True)
class ServiceStatus(Documented):
    """One wanted service. ``state`` is Docker's word, or ``missing``, or ``unknown`` without an engine."""

    service: str
    container: str
    state: str
    health: str | None
    reason: str | None

    @property
    def ok(self) -> bool:
        return self.state == "running" and self.health == "healthy"


@dataclass(frozen=True)
class StatusDocument:
    """The whole cluster; null means that a value could not be read."""

    cluster: str
    state: State
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    advice: tuple[str, ...]
    services: tuple[ServiceStatus, ...]
    nodes: tuple[NodeOverview, ...] | None
    tables: tuple[TableOverview, ...] | None
    rebalance: RebalanceStatus | None
    access: AccessDocument | None
    companions: tuple[CompanionStatus, ...]
    disks: tuple[Disk, ...]
    cassandra_ring: tuple[RingNode, ...] | None
    not_registered: tuple[str, ...]
    not_desired: tuple[str, ...]


@dataclass(frozen=True)
class Status(Documented):
    """Everything that could be read. ``problems`` describes the problems, ``advice`` the solutions.

    ``warnings`` are future problems; with only warnings the cluster is ok.

    ``ring`` is the output of nodetool about Cassandra's nodes, None if it was not asked or did not answer.
    """

    cluster: str
    state: State
    services: tuple[ServiceStatus, ...]
    overview: Overview | None
    companions: tuple[CompanionStatus, ...]
    ring: tuple[RingNode, ...] | None
    not_registered: tuple[NodeAddress, ...]
    not_desired: tuple[NodeAddress, ...]
    problems: tuple[str, ...]
    advice: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    access: Access | None = None
    """Return how to connect to the running services."""
    root: Path = field(default_factory=Path)

    @property
    def ok(self) -> bool:
        return self.state is State.OK

    def document(self) -> StatusDocument:
        return StatusDocument(
            cluster=self.cluster,
            state=self.state,
            problems=self.problems,
            warnings=self.warnings,
            advice=self.advice,
            services=self.services,
            nodes=self.overview.nodes if self.overview else None,
            tables=self.overview.tables if self.overview else None,
            rebalance=self.overview.rebalance if self.overview else None,
            access=self.access.document() if self.access else None,
            companions=self.companions,
            disks=self.disks,
            cassandra_ring=self.ring,
            not_registered=tuple(map(str, self.not_registered)),
            not_desired=tuple(map(str, self.not_desired)),
        )


async def status(directory: Directory) -> Status:
    """Read the state of everything at once. Services that are down are reported, not raised."""
    topology = directory.topology
    project = Project(topology.name)
    if ended := await _taken_down(directory, project):
        return ended
    (services, service_problems), (seen, overview_problem), asked, ring, measured, lacks = await asyncio.gather(
        _services(directory, project),
        _overview(directory),
        _companions(directory, project),
        _ring(directory, project),
        local_disks(directory, project),
        lacks_of(directory),
    )
    running = {service.service for service in services if service.state in {"running", "unknown"}}
    if timed_out(overview_problem) and topology.coordinator and topology.coordinator.service in running:
        seen, overview_problem = await _overview(directory, patience=_PATIENCE)
    asked = await _ask_again(directory, project, asked, running)
    asked = with_lacks(asked, lacks)
    companions = tuple(with_containers(topology, companion, services) for companion in asked)
    missing, extra = differences(topology, seen)
    resting = {node.address for node in seen.nodes if node.in_maintenance} if seen else set()
    expected = [one for one in services if one.service not in _services_of(topology, resting)]
    service_problems += [f"{service.service}: {_words(service)}" for service in expected if not service.ok]
    problems = [*service_problems, *([overview_problem] if overview_problem else [])]
    problems += [f"{address} is in cluster.yaml, but not an active node" for address in missing]
    problems += [f"{address} is registered, but not in cluster.yaml" for address in extra]
    if seen:
        problems += [_silence(node) for node in seen.nodes if node.reason and not node.in_maintenance]
        problems += [lost_slots_problem(node.address, node.lost_slots) for node in seen.nodes if node.lost_slots]
        problems += [str(node.loss) for node in seen.nodes if node.loss]
        if topology.coordinator:
            problems += list(seen.rebalance.problems)
    # The reports of the containers are handled above.
    problems += [
        f"{before.service.value}: {before.reason}"
        for before, after in zip(asked, companions, strict=True)
        if before == after and before.reason and before.condition is not Condition.UNKNOWN
    ]
    disks = _disks(topology, measured, seen)
    filling = disk_alerts(disks)
    problems += filling.alarms
    return Status(
        cluster=topology.name,
        state=overall(topology, expected, seen, bool(problems)),
        services=services,
        overview=seen,
        companions=companions,
        ring=ring,
        not_registered=missing,
        not_desired=extra,
        problems=tuple(dict.fromkeys(problems)),  # a node that does not answer is a problem of a rebalance too
        warnings=(*map(_maintenance, sorted(resting)), *filling.warnings),
        disks=disks,
        advice=(*([UPDATE_HINT] if OUTDATED in " ".join(problems) else []), *advise(topology, services, seen)),
        access=access(directory),
        root=directory.root,
    )


def _disks(topology: Topology, measured: Mapping[str, Disk], seen: Overview | None) -> tuple[Disk, ...]:
    """Return the disks that were measured here, and those that other nodes report, less exactly."""
    here = {node.address for node in topology.nodes if node.service in measured}
    told = [node.disk for node in seen.nodes if node.disk and node.address not in here] if seen else []
    return (*measured.values(), *told)


async def _taken_down(directory: Directory, project: Project) -> Status | None:
    """Return the status of a cluster after ``down``: nothing runs, and there are no other problems."""
    last = await in_thread(journal.last, directory.root, {"up", "down"})
    if last is None or (last.get("operation"), last.get("result")) != ("down", "done"):
        return None
    topology = directory.topology
    try:
        _, containers = await project.look()
        if containers:
            return None
    except CitusClusterError:
        return None
    # Earlier versions recorded only the arguments and the user.
    removed = last.get("parameters", {}).get("volumes") or "--volumes" in last.get("arguments", ())
    data = "its volumes were removed" if removed else "its data stay in their volumes"
    user = last.get("by", {}).get("user") or last.get("user")
    return Status(
        cluster=topology.name,
        state=State.DOWN,
        services=tuple(ServiceStatus(one.name, one.container_name, "missing", None, None) for one in topology.services),
        overview=None,
        companions=(),
        ring=None,
        not_registered=(),
        not_desired=(),
        problems=(f"The cluster was taken down at {last.get('time')} by {user}; {data}.",),
        advice=("Start it again: citus-cluster up",),
        root=directory.root,
    )


def advise(topology: Topology, services: Sequence[ServiceStatus], seen: Overview | None) -> Iterator[str]:
    """Return what to do about stopped services, and about nodes that do not answer."""
    paused = [service.container for service in services if service.state == "paused"]
    if paused:
        yield f"Resume the paused containers: docker unpause {' '.join(paused)}"
    if any(service.state in {"missing", "exited", "created"} for service in services):
        yield "Start the stopped services: citus-cluster up"
    for node in seen.nodes if seen else ():
        if node.loss:
            yield node.loss.way_out
        if node.extension and node.extension.is_behind:
            yield (
                f"The extension citus of {node.address} has version {node.extension.installed}, but its image has "
                f"{node.extension.available}. Make a backup, then run citus-cluster up --upgrade-citus."
            )
    here = {node.address: node.service for node in topology.nodes}
    running = {service.service for service in services if service.state == "running"}
    for node in seen.nodes if seen else ():
        if node.in_maintenance:
            continue
        if node.reason and node.address not in here:
            yield f"{node.address} does not belong to this directory. {node.address.silence_hint}"
        elif node.reason and here[node.address] in running:
            yield f"See why {node.address} does not answer: docker compose logs {here[node.address]}"


def _services_of(topology: Topology, addresses: Collection[NodeAddress]) -> Set[str]:
    return {node.service for node in topology.nodes if node.address in addresses}


def _maintenance(address: NodeAddress) -> str:
    return f"{address} is in maintenance. To end it: citus-cluster nodes resume {called(address)}"


def _silence(node: NodeOverview) -> str:
    reason = node.reason or ""
    if OUTDATED in reason:
        return f"{node.address} does not serve queries: {reason}"
    return reason if str(node.address) in reason else f"{node.address} does not answer: {reason}"


def differences(topology: Topology, seen: Overview | None) -> tuple[tuple[NodeAddress, ...], tuple[NodeAddress, ...]]:
    """Return the wanted workers that are not active, and the registered ones that are not in cluster.yaml.

    Workers of other hosts are registered by address and are no mistake, so only our own names count.
    """
    if seen is None or topology.coordinator is None:
        return (), ()
    active = {node.address for node in seen.nodes if node.is_active or node.in_maintenance}
    wanted = [worker.address for worker in topology.workers]
    missing = tuple(address for address in wanted if address not in active)
    ours = [node.address for node in seen.nodes if node.address.host.startswith("citus-worker")]
    return missing, tuple(address for address in ours if address not in wanted)


def overall(topology: Topology, services: Sequence[ServiceStatus], seen: Overview | None, has_problems: bool) -> State:
    """Return the state of the whole cluster."""
    workers = {worker.service for worker in topology.workers}
    nobody = not any(service.ok for service in services if service.service in workers or not topology.nodes)
    if seen is None if topology.coordinator else nobody:
        return State.DOWN
    if has_problems or not all(service.ok for service in services):
        return State.DEGRADED
    return State.OK


async def _services(directory: Directory, project: Project) -> tuple[tuple[ServiceStatus, ...], list[str]]:
    topology = directory.topology
    names = {service.name: service.container_name for service in topology.services}
    try:
        engine, containers = await project.look()
        found = {container.service: container for container in containers}
        services = await asyncio.gather(*(_service(engine, name, names[name], found.get(name)) for name in names))
    except EngineUnavailableError as error:
        return tuple(ServiceStatus(name, names[name], "unknown", None, None) for name in names), [error.message]
    problems = [finding.message for finding in project_findings(directory.root, containers)]
    return tuple(services), problems


async def _service(engine: Engine, service: str, name: str, container: Container | None) -> ServiceStatus:
    """Judge one service. If Docker has no result yet, the health check runs now."""
    if container is None:
        return ServiceStatus(service, name, "missing", None, "it has no container")
    health, reason = container.health, None
    if container.state == "running" and health != "healthy":
        probe = await in_thread(engine.run_health_check, container)
        if timed_out(probe.output):
            probe = await in_thread(engine.run_health_check, container, _HEALTH_AGAIN_TIMEOUT_S)
        health = "healthy" if probe.ok else container.health
        reason = None if probe.ok else probe.output or container.health_output
    elif container.state != "running":
        health = None
        reason = await _end_of(engine, container) if container.state in {"exited", "restarting"} else None
    return ServiceStatus(service, container.name, container.state, health, reason)


async def _end_of(engine: Engine, container: Container) -> str:
    """Describe the end of a container, with the cause from its log if it was not stopped from outside."""
    said = f"exit status {container.exit_code}"
    if container.exit_code in _STOPPED and not container.oom_killed:
        return said
    log = await last_log_lines(engine, container)
    cause = probable_cause("\n".join(log), exit_code=container.exit_code, oom_killed=container.oom_killed)
    return f"{said}: {cause.text}. {cause.hint}" if cause else said


def _words(service: ServiceStatus) -> str:
    state = (
        service.state if service.state != "running" else f"running, but {service.health or 'without a health check'}"
    )
    return f"{state} ({service.reason})" if service.reason else state


async def _ask_again(
    directory: Directory, project: Project, asked: Sequence[CompanionStatus], running: Set[str]
) -> tuple[CompanionStatus, ...]:
    """Ask services again, with more time, that did not answer in time and whose containers run.

    If one does not answer again, but its own health check passes, it is unknown: a busy machine makes no service down.
    """
    members = {
        one.service: [service.name for service in directory.topology.of(one.service)]
        for one in asked
        if timed_out(one.reason)
    }
    doubtful = {service for service, names in members.items() if running >= {*names}}
    if not doubtful:
        return tuple(asked)
    again = await _companions(directory, project, timeout_s=_PATIENCE * _COMPANIONS_TIMEOUT_S, only=doubtful)
    answers = {one.service: one for one in again}
    for service, one in answers.items():
        if timed_out(one.reason) and await _pass_their_checks(project, members[service]):
            reason = f"{one.reason}, in two attempts; its health check passes"
            answers[service] = replace(one, condition=Condition.UNKNOWN, reason=reason)
    return tuple(answers.get(one.service, one) for one in asked)


async def _pass_their_checks(project: Project, services: Collection[str]) -> bool:
    try:
        engine, containers = await project.look()
        own = [container for container in containers if container.service in services]
        probes = await asyncio.gather(*(in_thread(engine.run_health_check, container) for container in own))
    except EngineUnavailableError:
        return False
    return len(own) == len(services) and all(probe.ok for probe in probes)


async def _companions(
    directory: Directory,
    project: Project,
    *,
    timeout_s: float = _COMPANIONS_TIMEOUT_S,
    only: Collection[ComponentName] | None = None,
) -> tuple[CompanionStatus, ...]:
    topology = directory.topology
    targets = [_target(topology, component) for component in topology.components if COMPONENTS[component].companion]
    companions = Companions(
        targets,
        directory.password_of,
        doubt=(await Listeners.look(project)).doubt,
        instead=inspection.asks(directory, project),
    )
    try:
        return await companions.ask_all(timeout_s, only)
    finally:
        await companions.close()


def _target(topology: Topology, component: ComponentName) -> Target:
    def address(service: Service) -> NodeAddress:
        return NodeAddress(topology.connect_host, service.host_port)

    return Target.of(component, topology.of(component), address)


async def _ring(directory: Directory, project: Project) -> tuple[RingNode, ...] | None:
    """Ask nodetool in the first node that answers. It takes some seconds, and only adds to the results of CQL."""
    names = [service.name for service in directory.topology.of(ComponentName.CASSANDRA)]
    if not names:
        return None
    try:
        engine, containers = await project.look()
        running = [one for one in containers if one.service in names and one.state == "running"]
        # Docker checks at intervals, so a container that is not healthy yet may already answer.
        for container in sorted(running, key=lambda one: one.health != "healthy"):
            with suppress(CitusClusterError):  # a node that starts; CQL and the container report problems
                if ring := await in_thread(nodetool_status, engine, container):
                    return ring
    except EngineUnavailableError:
        pass  # reported with the services
    return None


def with_containers(
    topology: Topology, companion: CompanionStatus, services: Sequence[ServiceStatus]
) -> CompanionStatus:
    """Return why a companion does not answer according to its containers: they are starting, or do not run."""
    if companion.condition not in {Condition.DOWN, Condition.UNKNOWN}:
        return companion
    own = {service.name for service in topology.of(companion.service)}
    containers = [service for service in services if service.service in own and not service.ok]
    starting = [service for service in containers if service.state == "running" and service.health == "starting"]
    if starting:
        return replace(companion, condition=Condition.STARTING, reason=starting[0].reason or companion.reason)
    stopped = [service for service in containers if service.state not in {"running", "unknown"}]
    if len(stopped) == len(own) == 1:
        return replace(companion, reason=f"its container is {_words(stopped[0])}")
    if len(stopped) == len(own):
        return replace(companion, reason="; ".join(f"{service.service} is {_words(service)}" for service in stopped))
    return companion


async def _overview(directory: Directory, *, patience: float = 1) -> tuple[Overview | None, str | None]:
    """Return the coordinator's overview, or why it does not answer; ``patience`` multiplies the time to connect."""
    if directory.topology.coordinator is None:
        return None, None
    try:
        async with asyncio.timeout(_OVERVIEW_TIMEOUT_S):
            open_session = partial(connect, directory.coordinator(), timeout_s=patience * _CONNECT_TIMEOUT_S)
            async with await open_session() as conn:
                return await overview(conn, open_session), None
    except TimeoutError:
        return None, f"the coordinator did not answer within {_OVERVIEW_TIMEOUT_S:g} s"
    except CitusClusterError as error:
        return None, error.message
