"""Starting a cluster: from a generated directory to a cluster that is registered and verified."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from citus_cluster.errors import (
    AuthenticationError,
    CitusClusterError,
    ServiceFailedError,
    UnreachableError,
)
from citus_cluster.model.citus.extension import OUTDATED
from citus_cluster.model.citus.nodes import Node, NodeResult, Outcome
from citus_cluster.model.citus.registration import IN_MAINTENANCE, RegisteredNode
from citus_cluster.model.component import AsksHttp, AsksPostgres, AsksTcp, Service
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.documents import as_data
from citus_cluster.model.plan.causes import probable_cause
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.operations import inspection
from citus_cluster.operations.access import Access, access
from citus_cluster.operations.decoding import let_citus_decode
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.nodes.registration import register_all
from citus_cluster.operations.nodes.verify import verify
from citus_cluster.operations.start.api_ready import ApiWait
from citus_cluster.operations.start.extension import Agree, agree_once, never, refuse_or_ask, update_extensions
from citus_cluster.operations.start.images import get_images, late_companions
from citus_cluster.operations.start.preflight import (
    Finding,
    Preflight,
    compose_of,
    preflight,
)
from citus_cluster.operations.start.preparation import make_accounts_of, prepare_coordinator_of
from citus_cluster.operations.start.readiness import ContainerCache, Knock, wait_until_ready
from citus_cluster.operations.start.reloads import Reloads, refuse_unused
from citus_cluster.operations.start.unwanted import stop_departed, stop_unwanted
from citus_cluster.render.bundle import CONFIG_FOLDER
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.docker.compose import ComposeError
from citus_cluster.runtime.docker.engine import Container, Engine, HealthProbe, hung_engine_hint, in_thread
from citus_cluster.runtime.ports import answers
from citus_cluster.runtime.postgres import Connection, connect, translated
from citus_cluster.runtime.probes.http_health import probe_http
from citus_cluster.runtime.server_settings import reload_if_stale, unused_settings
from citus_cluster.runtime.store.files import dated
from citus_cluster.runtime.store.journal import make_folder

DEFAULT_TIMEOUT_S = 300.0
"""Cassandra's first start takes 20 s on two cores, and minutes on a slow machine."""
_KNOCK_TIMEOUT_S = 2.0
_SHARED_FOLDER_LAG_S = 1.0
# All nodes are ready by then; what is still pending after this long needs a person.
_REGISTER_PATIENCE_S = 30.0


@dataclass(frozen=True)
class UpDocument:
    """The result of a start; the keys for connecting to the cluster follow."""

    cluster: str
    seconds: float
    changed: tuple[str, ...]
    reloaded: tuple[str, ...]
    nodes: tuple[NodeResult, ...]
    verified: bool
    companions: tuple[str, ...]
    warnings: tuple[Finding, ...]


@dataclass(frozen=True)
class UpResult:
    """The result of a start.

    ``changed`` names the services whose containers were created or started, ``companions`` the other services that are
    ready.
    """

    cluster: str
    seconds: float
    changed: tuple[str, ...]
    reloaded: tuple[str, ...]
    nodes: tuple[NodeResult, ...]
    verified: bool
    companions: tuple[str, ...]
    warnings: tuple[Finding, ...]
    access: Access

    def as_dict(self, *, show_secrets: bool = False) -> dict[str, Any]:
        """Return the document; it contains the password only with ``show_secrets``."""
        document = UpDocument(
            cluster=self.cluster,
            seconds=self.seconds,
            changed=self.changed,
            reloaded=self.reloaded,
            nodes=self.nodes,
            verified=self.verified,
            companions=self.companions,
            warnings=self.warnings,
        )
        return {**as_data(document), **as_data(self.access.document(show_secrets=show_secrets))}


async def up(
    directory: Directory,
    emit: Emit,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    on_citus: Callable[[UpResult], None] = lambda result: None,
    agree: Agree = never,
    upgrade_citus: bool = False,
) -> UpResult:
    """Start what is not running, register the workers, and verify with a real distributed write.

    If the image has a Citus that is too new for the data, ``agree`` is asked whether to update the extension: before
    a container is replaced, if the names of the images show it. With ``upgrade_citus``, an extension that is merely
    older is updated too.

    This also waits for the services beside Citus, but they delay nothing: ``on_citus`` is called as soon as Citus is
    verified, and Cassandra is ready later. ``timeout_s`` starts when the images are available.
    A second run does only what is missing. Without a coordinator in the directory, only the workers are
    started. Raises PreflightError (nothing was started), ConsentNeededError, MismatchError, ServiceFailedError,
    NotRegisteredError, VerificationError.
    """
    emit(Event("preflight", EventKind.STARTED, "checking this machine"))
    found = await preflight(directory)
    for finding in found.warnings:  # the errors are in the exception
        emit(Event(f"preflight:{finding.id}", EventKind.WARNING, str(finding), {"id": finding.id}))
    engine = found.passed()
    emit(Event("preflight", EventKind.DONE, "this machine meets the requirements"))
    agree = agree_once(agree)
    await refuse_or_ask(directory, found.containers, agree)
    late = await late_companions(directory, engine, found.services)
    await get_images(directory, engine, found.services.keys() - late, found.services, emit)

    started = time.monotonic()
    deadline = started + timeout_s
    await stop_unwanted(directory, engine, found.containers, found.services, emit)
    # Compose fails for all services if one is paused; the wait for that one reports it.
    paused = {container.service for container in found.containers if container.state == "paused"}
    at_once = sorted(found.services.keys() - late - paused) if late or paused else ()
    for service in directory.topology.services:
        if service.keeps_journal:
            # An empty folder is easily lost when a directory is copied.
            make_folder(directory.root, service.name)
    await _start(directory, found.containers, at_once, emit, timeout_s=max(1.0, deadline - time.monotonic()))
    await _give_names_back(directory, engine, found.services, emit)
    await _restart_on_replaced_folders(directory, engine, found.containers, emit)
    await _restart_on_changed_passwords(directory, engine, found.containers, emit)
    containers = ContainerCache(engine, directory.topology.name, found.containers)
    reloaded = Reloads()
    companions = asyncio.create_task(
        _wait_for_companions(directory, containers, found, late, reloaded, emit, deadline=deadline, timeout_s=timeout_s)
    )
    try:
        result = await _start_citus(
            directory,
            containers,
            found,
            reloaded,
            emit,
            agree,
            upgrade_citus=upgrade_citus,
            started=started,
            timeout_s=timeout_s,
        )
        on_citus(result)
        failure = await prepare_coordinator_of(directory, emit)
        if failure:
            # A service that lacks it may never become ready, so the reason comes before that wait, and not after it.
            emit(Event("prepare", EventKind.WARNING, failure.message))
        try:
            ready = await companions
        except ServiceFailedError:
            if failure:
                raise failure from None
            raise
    finally:
        companions.cancel()
        await asyncio.gather(companions, return_exceptions=True)
    if failure:
        raise failure
    return replace(result, companions=ready, seconds=round(time.monotonic() - started, 2))


async def _start_citus(
    directory: Directory,
    containers: ContainerCache,
    found: Preflight,
    reloaded: Reloads,
    emit: Emit,
    agree: Agree,
    *,
    upgrade_citus: bool,
    started: float,
    timeout_s: float,
) -> UpResult:
    """Wait for the nodes, update Citus' extension if the image is newer, register, verify, and wait for the API."""
    deadline, engine = started + timeout_s, containers.engine
    topology = directory.topology
    knocks = {node.service: _knock_at(directory, topology.service(node.service), reloaded) for node in topology.nodes}
    await wait_until_ready(
        containers, knocks, emit, deadline=deadline, timeout_s=timeout_s, until=_is_ready_or_outdated
    )
    if await update_extensions(directory, agree, emit, asked_for=upgrade_citus):
        # Neither the question nor the update counts against the time for the start.
        deadline = time.monotonic() + timeout_s
        await wait_until_ready(containers, knocks, emit, deadline=deadline, timeout_s=timeout_s)
    now = await in_thread(engine.project_containers, directory.topology.name)
    changed = _changed(found.containers, now)
    told = tuple(name for name in directory.topology.service_names if name in reloaded.done and name not in changed)
    for service in told:
        emit(Event(f"reload:{service}", EventKind.DONE, f"{service} has reloaded its changed settings"))
    nodes, drained = await _complete(
        directory, containers, found.containers, emit, deadline=deadline, timeout_s=timeout_s
    )
    now = await in_thread(engine.project_containers, directory.topology.name)
    refuse_unused(reloaded, knocks, emit)
    return UpResult(
        cluster=directory.topology.name,
        seconds=round(time.monotonic() - started, 2),
        changed=_changed(found.containers, now),
        reloaded=told,
        nodes=nodes,
        verified=directory.topology.coordinator is not None,
        companions=(),
        warnings=found.warnings,
        access=access(directory, drained),
    )


def _is_ready_or_outdated(probe: HealthProbe) -> bool:
    return probe.ok or OUTDATED in probe.output


async def _wait_for_companions(
    directory: Directory,
    containers: ContainerCache,
    found: Preflight,
    late: Set[str],
    reloaded: Reloads,
    emit: Emit,
    *,
    deadline: float,
    timeout_s: float,
) -> tuple[str, ...]:
    """Wait for each companion, even if others fail. Raises one ServiceFailedError for all failures.

    Those that are ``late`` have no image yet: this pulls it and starts them.
    """
    topology = directory.topology
    # Services that must agree with each other are awaited together, the others separately.
    groups: dict[str, list[Service]] = {}
    for service in topology.companions:
        together = COMPONENTS[service.component].settle_together
        groups.setdefault(service.component.value if together else service.name, []).append(service)
    one_at_a_time = asyncio.Lock()

    async def bring_up(group: Sequence[Service]) -> None:
        knocks = {service.name: _knock_at(directory, service, reloaded) for service in group}
        patience_s = max(service.patience_s for service in group)
        until = deadline + patience_s
        if missing := knocks.keys() & late:
            async with one_at_a_time:
                await get_images(directory, containers.engine, missing, found.services, emit)
                until = time.monotonic() + timeout_s + patience_s
                await _start(directory, found.containers, sorted(missing), emit, timeout_s=timeout_s)
        await wait_until_ready(containers, knocks, emit, deadline=until, timeout_s=timeout_s + patience_s)
        component = group[0].component
        if topology.of(component)[0] in group:
            await make_accounts_of(directory, component, emit)
        for problem in await inspection.problems_at_rest(component, directory, containers.engine):
            emit(Event(component.value, EventKind.WARNING, problem))
        refuse_unused(reloaded, knocks, emit)

    outcomes = await asyncio.gather(*(bring_up(group) for group in groups.values()), return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, CitusClusterError)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and outcome not in failures:
            raise outcome
    if failures:
        rest = "Citus is running" if topology.nodes else "the other services are running"
        raise ServiceFailedError(
            f"{' '.join(failure.message for failure in failures)} {rest[0].upper()}{rest[1:]}.",
            details=[line for failure in failures for line in failure.details],
            hint=" ".join(failure.hint or "" for failure in failures),
        )
    return tuple(service.name for service in topology.companions)


async def _complete(
    directory: Directory,
    containers: ContainerCache,
    before: Iterable[Container],
    emit: Emit,
    *,
    deadline: float,
    timeout_s: float,
) -> tuple[tuple[NodeResult, ...], tuple[str, ...]]:
    """Register and verify while waiting for the admin API's own check. Also returns the names of drained workers."""
    topology = directory.topology
    api = ApiWait(topology, containers, before, emit, deadline=deadline, timeout_s=timeout_s)
    if topology.coordinator is None:
        await api.ready()
        return (), ()
    async with await connect(directory.coordinator(), timeout_s=_KNOCK_TIMEOUT_S * 5) as conn:
        waiting = asyncio.create_task(api.ready())
        try:
            nodes = await _register(directory, topology.coordinator, conn, emit, deadline)
            try:
                await let_citus_decode(conn, emit)
            except CitusClusterError as error:
                # Everything except splits of shards works without it.
                emit(Event("output-plugin", EventKind.WARNING, error.message))
            expected = [node.address for node in nodes if node.outcome is not Outcome.WITHDRAWN]
            emit(Event("verify", EventKind.STARTED, "verifying with a distributed write and read"))
            await verify(conn, expected, emit)
            emit(Event("verify", EventKind.DONE, "the cluster is verified"))
            async with translated("reading the node list"):
                registered = (await read_registry(conn)).nodes
            drained = _tell_drained(directory, registered, emit)
            await stop_departed(directory, containers.engine, registered, emit)
            await api.ready_beside_verified(waiting)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    return nodes, drained


def _tell_drained(directory: Directory, nodes: Sequence[RegisteredNode], emit: Emit) -> tuple[str, ...]:
    """Report the workers that get no shards because they were drained, and return their names."""
    services = {worker.address: worker.service for worker in directory.topology.workers}
    names = tuple(services.get(node.address, str(node.address)) for node in nodes if node.is_drained)
    for name in names:
        message = (
            f"{name} is drained and gets no shards. To remove it: citus-cluster nodes remove {name}. To let it hold "
            f"shards again: citus-cluster nodes drain {name} --undo"
        )
        emit(Event(f"drained:{name}", EventKind.SKIPPED, message))
    return names


async def _register(
    directory: Directory, coordinator: Node, conn: Connection, emit: Emit, deadline: float
) -> tuple[NodeResult, ...]:
    """Register until no worker is pending; the admin API may do the same at the same time."""
    desired = [worker.address for worker in directory.topology.workers]
    patience = min(deadline, time.monotonic() + _REGISTER_PATIENCE_S)
    results = await register_all(conn, coordinator.address, desired, emit, deadline=patience)
    services = {worker.address: worker.service for worker in directory.topology.workers}
    for result in results:
        if result.outcome is Outcome.WITHDRAWN:
            way_back = f"add_worker.py --host {result.address.host} --port {result.address.port}"
            message = (
                f"{result.address} was skipped: {result.reason}. To register it again: {way_back}. To remove it from "
                f"cluster.yaml too: citus-cluster nodes remove {services[result.address]}"
            )
            if result.reason == IN_MAINTENANCE:
                message = (
                    f"{result.address} is in maintenance. To end it: citus-cluster nodes resume "
                    f"{services[result.address]}"
                )
            emit(Event(f"register:{result.address}", EventKind.WARNING, message))
    return results


async def _start(
    directory: Directory, before: Iterable[Container], services: Sequence[str], emit: Emit, *, timeout_s: float
) -> None:
    """Let Compose create and start what is missing or has changed; by default of all services.

    Raises ServiceFailedError.
    """
    emit(Event("start", EventKind.STARTED, "starting the containers"))
    companions = {service.name for service in directory.topology.companions}
    paused = [one.name for one in before if one.state == "paused" and one.ours and one.service not in companions]
    if paused:
        names = " ".join(paused)
        raise ServiceFailedError(f"{names} is paused.", hint=f"Resume it: docker unpause {names}")
    try:
        async with asyncio.timeout(timeout_s):
            await compose_of(directory).up(
                lambda line: emit(Event("start", EventKind.PROGRESS, f"starting: {line}")), services
            )
    except TimeoutError:
        raise ServiceFailedError(
            f"docker compose up did not return within {timeout_s:.0f} s.",
            hint="To see what it waits for: docker compose ps -a. Then run citus-cluster up again. "
            + hung_engine_hint(),
        ) from None
    except ComposeError as error:
        emit(Event("start", EventKind.FAILED, error.message))
        cause = probable_cause("\n".join(error.details))
        raise ServiceFailedError(
            f"The containers could not be started: {cause.text if cause else error.message}.",
            details=error.details,
            hint=f"{cause.hint if cause else error.hint}",
        ) from error
    emit(Event("start", EventKind.DONE, "started the containers"))


async def _give_names_back(
    directory: Directory, engine: Engine, services: Mapping[str, Mapping[str, Any]], emit: Emit
) -> None:
    """Rename containers that a killed start has left under a temporary name.

    Compose recreates a container as ID_NAME, and renames it once the old one is removed. A later start of Compose
    does not rename it.
    """
    containers = await in_thread(engine.project_containers, directory.topology.name)
    taken = {container.name for container in containers}
    for container in containers:
        wanted = str(services.get(container.service or "", {}).get("container_name", container.name))
        if container.ours and wanted not in taken and container.name.endswith(f"_{wanted}"):
            await in_thread(engine.rename, container, wanted)
            message = (
                f"renamed the container {wanted} back: an earlier start was interrupted while its container was "
                "recreated"
            )
            emit(Event(f"rename:{container.service}", EventKind.DONE, message))


async def _restart_on_replaced_folders(
    directory: Directory, engine: Engine, before: Iterable[Container], emit: Emit
) -> None:
    """Restart containers that still mount a folder that was replaced: moved away and copied back, or created again.

    This concerns only containers that ran ``before``; one that was just started must not be disturbed.
    """
    topology = directory.topology
    files = {one.name: f"{one.config}/{one.files[0].name}" for one in topology.services if one.files}

    async def look(container: Container, file: str) -> None:
        on_disk = (directory.root / CONFIG_FOLDER / file).read_bytes()
        mounted = f"/etc/citus-cluster/{file.rsplit('/', 1)[-1]}"
        try:
            if not await in_thread(engine.has_stale_mount, container, mounted, on_disk):
                return
            # Docker Desktop shows a new file with a short delay.
            await asyncio.sleep(_SHARED_FOLDER_LAG_S)
            if not await in_thread(engine.has_stale_mount, container, mounted, on_disk):
                return
        except CitusClusterError:
            return  # it has ended; the wait for it reports why
        await in_thread(engine.restart, container)
        message = f"restarting {container.service}: the folder that it mounts was replaced"
        emit(Event(f"remount:{container.service}", EventKind.DONE, message))

    containers = await in_thread(engine.project_containers, topology.name)
    ran_before = {container.id for container in before if container.state == "running"}
    running = [c for c in containers if c.state == "running" and c.id in ran_before and c.service in files]
    await asyncio.gather(*(look(one, files[one.service or ""]) for one in running))


async def _restart_on_changed_passwords(
    directory: Directory, engine: Engine, before: Iterable[Container], emit: Emit
) -> None:
    """Restart containers that read a password or privileges only at their start, and ran before these were changed."""
    root, topology = directory.root, directory.topology
    services = {service.name: service for service in topology.services}
    for container in await in_thread(engine.project_containers, topology.name):
        service = services.get(container.service or "")
        ran = any(one.id == container.id and one.started_at == container.started_at for one in before)
        if service is None or not ran or container.state != "running":
            continue
        files = [root / CONFIG_FOLDER / service.config / name for name in service.restart_files]
        files += [root / secret.path for secret in service.restart_secrets]
        started = datetime.fromisoformat(container.started_at).timestamp()
        changed = [dated(path).st_mtime for path in files if path.exists()]
        # Started in the future: the clock was set back, so the times cannot be compared.
        if changed and (started > time.time() or max(changed) > started):
            await in_thread(engine.restart, container)
            message = f"restarting {service.name}: {service.restart_reason} was changed"
            emit(Event(f"password:{service.name}", EventKind.DONE, message))


def _knock_at(directory: Directory, service: Service, reloaded: Reloads) -> Knock:
    """Return the cheap probe that a service must answer before its health check runs."""
    match service.knock:
        case AsksPostgres():
            return _knock_with_session(directory, service, reloaded)
        case AsksTcp(question):
            return _knock_with(question, directory.topology.connect_host, service.host_port)
        case AsksHttp(path):
            return _knock_with_request(path, directory.topology.connect_host, service.host_port)


def _knock_with_session(directory: Directory, server: Service, reloaded: Reloads) -> Knock:
    info = directory.connection(server)
    changed_at = last_change(directory.root, server.config)

    async def knock() -> HealthProbe:
        """Connect, and let the server reload settings that were changed since it last read them."""
        try:
            async with translated("checking its settings"), await connect(info, timeout_s=_KNOCK_TIMEOUT_S) as conn:
                if await reload_if_stale(conn, changed_at) and server.name not in reloaded.done:
                    reloaded.done.append(server.name)
                reloaded.unused[server.name] = await unused_settings(conn)
        except AuthenticationError:
            raise
        except UnreachableError as error:
            return HealthProbe(False, error.message)
        return HealthProbe(True, "")

    return knock


def last_change(root: Path, config: str) -> datetime:
    """Return when the settings that a node mounts were last written or renamed into place."""
    found = [dated(root / CONFIG_FOLDER / config / name) for name in ("postgresql.conf", "pg_hba.conf")]
    return datetime.fromtimestamp(max(max(stat.st_mtime, stat.st_ctime) for stat in found), UTC)


def _knock_with(question: bytes, host: str, port: int) -> Knock:
    async def knock() -> HealthProbe:
        return HealthProbe(await in_thread(answers, host, port, question, timeout_s=_KNOCK_TIMEOUT_S), "")

    return knock


def _knock_with_request(path: str, host: str, port: int) -> Knock:
    async def knock() -> HealthProbe:
        return await in_thread(probe_http, host, port, path, timeout_s=_KNOCK_TIMEOUT_S)

    return knock


def _changed(before: Iterable[Container], after: Iterable[Container]) -> tuple[str, ...]:
    running = {(container.id, container.started_at) for container in before}
    return tuple(c.service for c in after if c.service and (c.id, c.started_at) not in running and c.state == "running")
