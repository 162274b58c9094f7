"""Removing a worker completely: from the node list, from cluster.yaml and the generated files, and its container.

Also updates cluster.yaml after a worker was removed only on the coordinator. The volume always stays.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from citus_cluster.errors import EditedFileError, EngineUnavailableError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.removal import Departure, refuse_removal
from citus_cluster.model.documents import Documented
from citus_cluster.model.identity import known_workers
from citus_cluster.model.names import container_name, volume_name
from citus_cluster.model.plan.effects import EffectKind
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.spec import with_workers, without_worker
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.nodes import unregistration as unregistration
from citus_cluster.operations.setup.plan import SetupPlan, apply_setup, plan_setup
from citus_cluster.operations.setup.request import SetupRequest
from citus_cluster.runtime.docker.compose import override_file
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread
from citus_cluster.runtime.docker.project import Project
from citus_cluster.runtime.postgres import Connection, ConnectionInfo

# All data of the worker exist elsewhere, so a kill is safe. A server that does not know yet that other nodes have left
# tries to connect to them, and would take a minute to stop.
_STOP_TIMEOUT_S = 10


@dataclass(frozen=True)
class RemovalDocument:
    """The plan of a removal."""

    node: Departure
    would_change: bool
    setup: SetupPlan | None
    container: str | None
    volume_kept: str | None
    restarts: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RemovalPlan(Documented):
    """The plan of a removal; the same value is printed and executed.

    ``setup`` is None for a worker of another directory, or for the last worker of a directory without a coordinator.
    ``container`` is removed, ``volume`` stays; ``knows_engine``: whether the engine was asked about them.
    """

    departure: Departure
    force: bool
    service: str | None
    setup: SetupPlan | None
    container: Container | None
    volume: str | None
    notes: tuple[str, ...]
    knows_engine: bool = True
    engine: Engine | None = field(default=None, repr=False, compare=False)

    @property
    def nothing_to_do(self) -> bool:
        files = self.setup is not None and not self.setup.nothing_to_do
        return self.departure.node is None and self.departure.recorded and not files and self.container is None

    @property
    def restarts(self) -> tuple[str, ...]:
        """Services that the next ``up`` restarts: none, unless cluster.yaml has other changes too."""
        effects = self.setup.effects if self.setup else ()
        return tuple(effect.service for effect in effects if effect.kind is EffectKind.RECREATE)

    def document(self) -> RemovalDocument:
        return RemovalDocument(
            node=self.departure,
            would_change=not self.nothing_to_do,
            setup=self.setup,
            container=self.container.name if self.container else None,
            volume_kept=self.volume,
            restarts=self.restarts,
            notes=self.notes,
        )


def workers_of(directory: Directory | None) -> Mapping[str, NodeAddress]:
    """Return the current and former workers of this directory, by service."""
    if directory is None:
        return {}
    identity = directory.manifest.identity
    texts = {**identity.get("removed", {}), **identity.get("addresses", {})}
    known = {service: NodeAddress.parse(text) for service, text in texts.items() if service.startswith("citus-worker")}
    return {**known, **{worker.service: worker.address for worker in directory.topology.workers}}


async def plan_removal(
    conn: Connection,
    directory: Directory | None,
    name: str,
    worker: NodeAddress,
    *,
    force: bool,
    project: Project | None = None,
) -> RemovalPlan:
    """Plan the removal. Changes nothing. The caller holds the lock of the directory.

    ``directory`` is None if there is none here; ``project`` is its own on the engine. Raises UsageError, InUseError,
    EditedFileError, and what a set-up raises.
    """
    service = next((one for one, address in workers_of(directory).items() if address == worker), None)
    found = await unregistration.look(conn, name, worker)
    refuse_removal(found, force=force)
    if directory is None or service is None:
        return RemovalPlan(found, force, None, None, None, None, _notes_of_a_stranger(conn, found))
    if not directory.spec.coordinator and found.node is None and not found.recorded:
        raise UsageError(
            f"{worker} was never registered with that coordinator, so its shards are unknown; nothing was changed.",
            hint="Name the coordinator of these workers with --dsn.",
        )
    engine, containers, unavailable = await _look_at_engine(project or Project(directory.topology.name))

    def connect_engine() -> Engine:
        if engine is None:
            raise unavailable or EngineUnavailableError()
        return engine

    setup, notes = await in_thread(_plan_files, directory, service, connect_engine)
    container, volume, more = await in_thread(_find_container, directory, service, engine, containers)
    return RemovalPlan(
        found, force, service, setup, container, volume, (*notes, *more), knows_engine=not more, engine=engine
    )


async def _look_at_engine(
    project: Project,
) -> tuple[Engine | None, tuple[Container, ...], EngineUnavailableError | None]:
    """Return the engine, opened once for the whole removal, and the containers; or why there is no engine."""
    try:
        return *await project.look(), None
    except EngineUnavailableError as error:
        return None, (), error


def _notes_of_a_stranger(conn: Connection, found: Departure) -> tuple[str, ...]:
    """Return how to stop it on its own server, whose directory has the coordinator's password."""
    if found.silence:
        return ()
    seen = NodeAddress(conn.info.host, conn.info.port)
    home = found.coordinator if found.coordinator and not found.coordinator.is_service else seen
    dsn = ConnectionInfo(home.host, home.port, conn.info.user, conn.info.dbname, password="").dsn()
    return (
        f"{found.address} keeps running, and answers queries with outdated metadata. To stop it, run on its server, in "
        f"its directory: citus-cluster nodes remove {found.address} --dsn {quote(dsn)}",
    )


def _plan_files(
    directory: Directory, service: str, connect_engine: Callable[[], Engine]
) -> tuple[SetupPlan | None, tuple[str, ...]]:
    """Plan the files without the worker, and list what the user must change by hand."""
    root, spec = directory.root, directory.spec
    number = int(service.removeprefix("citus-worker"))
    lacking = {*known_workers(directory.manifest.identity)} - {*spec.worker_numbers, number}
    if not spec.coordinator and {*spec.worker_numbers, *lacking} == {number}:
        return None, (f"It is the last worker in {root}. To stop the other services there: citus-cluster down",)
    values: dict[str, Any] = {"workers": without_worker(with_workers(spec.workers, lacking), number)}
    if service in spec.settings.nodes:
        values[f"settings.nodes.{service}"] = None
    request = SetupRequest(root=root, values=values, removed_workers=frozenset({service}))
    plan = plan_setup(request, connect_engine=connect_engine)
    if plan.replaced_edits:
        raise EditedFileError(
            "The removal must replace files that were edited, or that this tool did not write; nothing was changed.",
            details=plan.replaced_edits,
            hint="Move the edits into cluster.yaml (settings) or docker-compose.override.yml, or let "
            "setup_citus_cluster.py --force replace the files; then run the command again.",
        )
    return plan, (*_returns(lacking), *_overrides(root, service))


def _returns(numbers: Collection[int]) -> Iterable[str]:
    for number in sorted(numbers):
        service = f"citus-worker{number}"
        yield (
            f"{service} is missing in cluster.yaml too, but was not removed by this tool, so it is added again. "
            "To remove it: "
            f"citus-cluster nodes remove {service}"
        )


def _overrides(root: Path, service: str) -> list[str]:
    name = override_file(root)
    if name is None or not (root / name).is_file() or f"{service}:" not in (root / name).read_text(errors="replace"):
        return []
    return [f"{name} names {service}. Remove it there too; otherwise Compose refuses the files."]


def _find_container(
    directory: Directory, service: str, engine: Engine | None, containers: Sequence[Container]
) -> tuple[Container | None, str | None, tuple[str, ...]]:
    """Return the worker's container and volume, and the manual steps if they belong elsewhere. Blocks."""
    project = directory.topology.name
    unknown = (
        f"No Docker engine answers here. Run where its container runs: docker rm -f {container_name(project, service)}"
    )
    if engine is None:
        return None, None, (unknown,)
    try:
        volume = volume_name(project, service)
        kept = volume if volume in engine.project_volumes(project) else None
    except EngineUnavailableError:
        return None, None, (unknown,)
    found = next((one for one in containers if one.service == service and one.ours), None)
    if found and found.working_dir and Path(found.working_dir).resolve() != directory.root.resolve():
        note = f"The container {found.name} belongs to another directory ({found.working_dir}), and is not changed."
        return None, kept, (note,)
    return found, kept, ()


async def remove(conn: Connection, plan: RemovalPlan, emit: Emit) -> None:
    """Execute a plan. After an interruption, the same command continues. Raises InUseError, LockedError, WriteError.

    The caller holds the lock of the directory. The node list comes first: from then on nothing registers the worker.
    """
    worker = plan.departure.address
    await unregistration.deregister(conn, plan.departure, emit, force=plan.force)
    if plan.setup:
        await in_thread(apply_setup, plan.setup, consent=True, replace_edited=False)
        written = len(plan.setup.all_changes)
        if written:
            message = f"cluster.yaml and the generated files no longer contain {plan.service}"
            emit(Event(f"files:{worker}", EventKind.DONE, message, {"files": written}))
    if plan.container and plan.engine:
        await _remove_container(plan.engine, plan.container, emit)
    if plan.setup:
        await unregistration.release(conn, worker, is_gone=plan.knows_engine)


async def _remove_container(engine: Engine, container: Container, emit: Emit) -> None:
    step = f"container:{container.name}"
    emit(Event(step, EventKind.STARTED, f"stopping {container.name}"))
    # A paused container cannot stop.
    await in_thread(engine.stop, container, 1 if container.state == "paused" else _STOP_TIMEOUT_S)
    await in_thread(engine.remove, container)
    emit(Event(step, EventKind.DONE, f"removed the container {container.name}; its volume stays"))
