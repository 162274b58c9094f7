"""Removing a worker as a whole: from the node list, from cluster.yaml and the generated files, and its container.

Also how cluster.yaml follows the coordinator, where a worker was removed there alone. Its volume always stays.
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

# It holds nothing that is not elsewhere, and a kill is safe; but a server that does not know yet that others have left
# looks for them, and would take a minute to stop.
_STOP_TIMEOUT_S = 10


@dataclass(frozen=True)
class RemovalDocument:
    """What the removal of a worker would do."""

    node: Departure
    would_change: bool
    setup: SetupPlan | None
    container: str | None
    volume_kept: str | None
    restarts: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RemovalPlan(Documented):
    """What the removal of a worker would do; printed and carried out from this one value.

    ``setup`` is None for a worker that is not of this directory, or is the last one where no coordinator is.
    ``container`` goes, ``volume`` stays; ``knows_engine`` says whether ``engine`` told of them.
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
        """Services that the next ``up`` restarts, since the memory is shared by fewer."""
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
    """Workers that this directory has, or had, by service."""
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
    """Decide what the removal takes; nothing is changed. The caller holds the lock of the directory.

    ``directory`` is None where there is none here; ``project`` is its own on the engine. Raises UsageError, InUseError,
    EditedFileError, and what a set-up raises.
    """
    service = next((one for one, address in workers_of(directory).items() if address == worker), None)
    found = await unregistration.look(conn, name, worker)
    refuse_removal(found, force=force)
    if directory is None or service is None:
        return RemovalPlan(found, force, None, None, None, None, _notes_of_a_stranger(conn, found))
    if not directory.spec.coordinator and found.node is None and not found.recorded:
        raise UsageError(
            f"That coordinator has never had {worker}, so it knows nothing of its shards; nothing was changed.",
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
    """Give the engine, opened once for all that the removal asks of it, and the containers; or why there is none."""
    try:
        return *await project.look(), None
    except EngineUnavailableError as error:
        return None, (), error


def _notes_of_a_stranger(conn: Connection, found: Departure) -> tuple[str, ...]:
    """Say how it is stopped where it runs: there the directory's own password opens the coordinator."""
    if found.silence:
        return ()
    seen = NodeAddress(conn.info.host, conn.info.port)
    home = found.coordinator if found.coordinator and not found.coordinator.is_service else seen
    dsn = ConnectionInfo(home.host, home.port, conn.info.user, conn.info.dbname, password="").dsn()
    return (
        f"{found.address} runs on, and still answers with what it knew of the cluster. On its server, in its "
        f"directory, this stops it: citus-cluster nodes remove {found.address} --dsn {quote(dsn)}",
    )


def _plan_files(
    directory: Directory, service: str, connect_engine: Callable[[], Engine]
) -> tuple[SetupPlan | None, tuple[str, ...]]:
    """Plan the files without the worker, and say what the user must change by hand."""
    root, spec = directory.root, directory.spec
    number = int(service.removeprefix("citus-worker"))
    lacking = {*known_workers(directory.manifest.identity)} - {*spec.worker_numbers, number}
    if not spec.coordinator and {*spec.worker_numbers, *lacking} == {number}:
        return None, (f"It is the last worker in {root}: citus-cluster down takes the rest of it down.",)
    values: dict[str, Any] = {"workers": without_worker(with_workers(spec.workers, lacking), number)}
    if service in spec.settings.nodes:
        values[f"settings.nodes.{service}"] = None
    request = SetupRequest(root=root, values=values, removed_workers=frozenset({service}))
    plan = plan_setup(request, connect_engine=connect_engine)
    if plan.replaced_edits:
        raise EditedFileError(
            "Files that the removal must replace are not this tool's, or were edited since; nothing was changed.",
            details=plan.replaced_edits,
            hint="Move the edits into cluster.yaml (settings) or docker-compose.override.yml, or let "
            "setup_citus_cluster.py --force replace the files; then run the command again.",
        )
    return plan, (*_returns(lacking), *_overrides(root, service))


def _returns(numbers: Collection[int]) -> Iterable[str]:
    for number in sorted(numbers):
        service = f"citus-worker{number}"
        yield (
            f"cluster.yaml lacks {service} too, which has not left through this tool: it is named there again until "
            f"citus-cluster nodes remove {service}"
        )


def _overrides(root: Path, service: str) -> list[str]:
    name = override_file(root)
    if name is None or not (root / name).is_file() or f"{service}:" not in (root / name).read_text(errors="replace"):
        return []
    return [f"{name} names {service}: remove it there, too, or Compose refuses the files."]


def _find_container(
    directory: Directory, service: str, engine: Engine | None, containers: Sequence[Container]
) -> tuple[Container | None, str | None, tuple[str, ...]]:
    """Give the worker's container and its volume, and what must be done by hand where they are not ours. Blocks."""
    project = directory.topology.name
    unknown = (
        f"No Docker engine answers here. Where its container runs: docker rm -f {container_name(project, service)}"
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
        note = f"The container {found.name} is of another directory ({found.working_dir}), and is left alone."
        return None, kept, (note,)
    return found, kept, ()


async def remove(conn: Connection, plan: RemovalPlan, emit: Emit) -> None:
    """Carry a plan out. Ended half way, the same command goes on. Raises InUseError, LockedError, WriteError.

    The caller holds the lock of the directory. First the node list: from then on nothing brings the worker back.
    """
    worker = plan.departure.address
    await unregistration.deregister(conn, plan.departure, emit, force=plan.force)
    if plan.setup:
        await in_thread(apply_setup, plan.setup, consent=True, replace_edited=False)
        written = len(plan.setup.all_changes)
        if written:
            message = f"cluster.yaml and the generated files are without {plan.service}"
            emit(Event(f"files:{worker}", EventKind.DONE, message, {"files": written}))
    if plan.container and plan.engine:
        await _remove_container(plan.engine, plan.container, emit)
    if plan.setup:
        await unregistration.release(conn, worker, is_gone=plan.knows_engine)


async def _remove_container(engine: Engine, container: Container, emit: Emit) -> None:
    step = f"container:{container.name}"
    emit(Event(step, EventKind.STARTED, f"stopping {container.name}"))
    # One that is paused cannot be asked to stop.
    await in_thread(engine.stop, container, 1 if container.state == "paused" else _STOP_TIMEOUT_S)
    await in_thread(engine.remove, container)
    emit(Event(step, EventKind.DONE, f"the container {container.name} is removed; its volume stays"))
