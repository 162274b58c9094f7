"""The set-up: from options and cluster.yaml to the generated directory, as a plan that is then applied."""

import ipaddress
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from citus_cluster.errors import ConsentNeededError, EditedFileError, SpecError, UsageError
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS, wanted
from citus_cluster.model.documents import Documented
from citus_cluster.model.identity import identity_of, refuse_immutable, without_removed
from citus_cluster.model.layout import COMPOSE_FILE, SPEC_FILE
from citus_cluster.model.names import directory_problem, volume_name
from citus_cluster.model.plan.changes import Action, FileChange, WantedFile
from citus_cluster.model.plan.effects import Effect, EffectKind, effects
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.topology import Topology, refuse_contradictions, resolve
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.operations.directory import compare_files
from citus_cluster.operations.setup.guards import has_password, refuse_lockout, refuse_lost_services, refuse_return
from citus_cluster.operations.setup.request import (
    HostResources,
    SetupRequest,
    merged_spec,
    pg_major,
    resolved_spec,
    shared_spec,
    taken_numbers,
)
from citus_cluster.render.bundle import CONFIG_FOLDER
from citus_cluster.render.spec_file import render_spec
from citus_cluster.runtime.docker.engine import Engine
from citus_cluster.runtime.ports import PortState, port_state
from citus_cluster.runtime.store import files, journal, secrets
from citus_cluster.runtime.store.secrets import Secrets

_PREFERRED_BY_COMPOSE = ("compose.yaml", "compose.yml")


@dataclass(frozen=True)
class FileDocument:
    """A file that would change, below the cluster's directory."""

    path: str
    action: Action


@dataclass(frozen=True)
class SetupDocument:
    """The planned or completed changes of a set-up, and their effects on services."""

    directory: str
    cluster: str
    would_change: bool
    files: tuple[FileDocument, ...]
    kept_edits: tuple[str, ...]
    replaced_edits: tuple[str, ...]
    services: tuple[Effect, ...]
    restarts: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class SetupPlan(Documented):
    """The planned changes of a set-up, and their effects; the same value is printed, tested and applied."""

    root: Path
    spec: ClusterSpec
    topology: Topology
    changes: tuple[FileChange, ...]
    spec_change: FileChange
    secret_changes: tuple[FileChange, ...]
    secrets: Secrets = field(repr=False)
    effects: tuple[Effect, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    identity: Mapping[str, Any]
    previous: files.Manifest | None

    @property
    def all_changes(self) -> tuple[FileChange, ...]:
        """Return every file that changes, in display order; secrets without their content."""
        return tuple(change for change in (self.spec_change, *self.secret_changes, *self.changes) if change.changes)

    @property
    def nothing_to_do(self) -> bool:
        return not self.all_changes

    @property
    def upgrades_citus(self) -> bool:
        """The image of the nodes changes, and the warning that this updates Citus' extension is part of the plan."""
        return self.previous is not None and self.previous.identity.get("image") != self.spec.images.citus

    @property
    def unfinished(self) -> bool:
        """A killed run has written every file, but has not recorded that, or not cleaned up."""
        if self.previous is None or not self.nothing_to_do:
            return False
        noted = files.recorded_after(self.changes, self.previous) == dict(self.previous.files)
        return not noted or files.has_staging(self.root)

    @property
    def needs_consent(self) -> bool:
        """Return whether an existing cluster's files change; a first run in a directory only adds files."""
        return self.previous is not None and not self.nothing_to_do

    @property
    def kept_edits(self) -> tuple[str, ...]:
        return tuple(change.path for change in self.changes if change.action is Action.KEEP)

    @property
    def replaced_edits(self) -> tuple[str, ...]:
        return tuple(change.path for change in self.changes if change.changes and change.edited)

    @property
    def restarts(self) -> tuple[str, ...]:
        """Services whose containers the next `up` recreates."""
        return tuple(effect.service for effect in self.effects if effect.kind is EffectKind.RECREATE)

    def document(self) -> SetupDocument:
        return SetupDocument(
            directory=str(self.root),
            cluster=self.spec.name,
            would_change=not self.nothing_to_do,
            files=tuple(FileDocument(change.path, change.action) for change in self.all_changes),
            kept_edits=self.kept_edits,
            replaced_edits=self.replaced_edits,
            services=self.effects,
            restarts=self.restarts,
            warnings=self.warnings,
            notes=self.notes,
            spec=self.spec.as_data(),
        )


def plan_setup(request: SetupRequest, *, connect_engine: Callable[[], Engine] = Engine.connect) -> SetupPlan:
    """Plan the files. Writes nothing.

    Raises SpecError, UsageError, ImmutableError, DoesNotFitError, LeftoverVolumesError.
    """
    resources = HostResources(connect_engine)
    previous = files.read_manifest(request.root)
    if previous is None and (problem := directory_problem(str(request.root.resolve()))):
        raise UsageError(
            f"The directory {str(request.root)!r} {problem}, which Docker Compose does not support; "
            "nothing was written.",
            hint="Choose another directory, for example with --output-dir.",
        )
    asked = merged_spec(request, previous, resources)
    spec = resolved_spec(asked, request, resources)
    major = pg_major(spec, previous, resources)
    refuse_contradictions(spec, pg_major=major)
    spec = shared_spec(spec, request, previous, _limits(request.root) if previous else {}, major)
    topology, warnings = resolve(
        spec, memory_mb=spec.resources.memory_mb or 0, cpus=spec.resources.cpus or 1, pg_major=major
    )
    earlier = previous.identity if previous else {}
    identity = identity_of(topology, earlier, request.removed_workers)
    refuse_immutable(earlier, identity, topology)
    made = secrets.prepare(request.root, given_password=request.password, wanted=spec.wanted)
    refuse_lockout(request, spec, resources, previous)
    refuse_lost_services(spec, topology, earlier, resources)
    refuse_return(topology, previous, resources)
    changes = compare_files(
        request.root, topology, made, previous.files if previous else {}, replace_edited=request.replace_edited
    )
    return SetupPlan(
        root=request.root,
        spec=spec,
        topology=topology,
        changes=changes,
        spec_change=_spec_change(request, spec),
        secret_changes=tuple(
            FileChange(path, Action.SET_MODE if (request.root / path).exists() else Action.CREATE, None, None)
            for path in made.files
        ),
        secrets=made,
        effects=_effects(changes, previous, topology),
        warnings=(*warnings, *_warnings(request, spec, topology, previous)),
        notes=(
            *_notes(resources),
            *_notes_of_components(asked, spec),
            *_notes_of_request(request, spec, previous, resources),
        ),
        identity=identity,
        previous=previous,
    )


def apply_setup(plan: SetupPlan, *, consent: bool, replace_edited: bool) -> None:
    """Write the planned files. The caller holds the directory's lock.

    Raises ConsentNeededError or EditedFileError before anything is written, WriteError.
    """
    if plan.nothing_to_do and not plan.unfinished:
        return
    if plan.replaced_edits and not replace_edited:
        raise EditedFileError(
            "This run must replace files that were edited, or that this tool did not write; nothing was written.",
            details=plan.replaced_edits,
            hint="Move the edits into cluster.yaml (settings) or docker-compose.override.yml; "
            "or replace the files with --force, which keeps the old ones as .bak.",
        )
    if plan.needs_consent and not consent:
        raise ConsentNeededError(
            "Files of an existing cluster would change, but the changes were not confirmed; nothing was written.",
            hint="Check the changes with --dry-run, then confirm them with --yes.",
        )
    if plan.previous and (fewer := without_removed(plan.previous.identity, plan.identity)):
        # This comes first: every command refuses a cluster.yaml without a worker of the manifest.
        files.keep_identity(plan.root, fewer, plan.previous)
    for service in plan.topology.services:
        if service.keeps_journal:
            journal.make_folder(plan.root, service.name)
    spec_file = plan.spec_change.wanted if plan.spec_change.changes else None
    files.apply_changes(
        plan.root,
        plan.changes,
        secrets=plan.secrets.files,
        spec=spec_file,
        identity=plan.identity,
        previous=plan.previous,
    )


def _spec_change(request: SetupRequest, spec: ClusterSpec) -> FileChange:
    found = files.read_file(request.root, SPEC_FILE)
    base = found.content.decode() if found else request.spec_text
    content = render_spec(spec, base).encode()
    if found is None:
        return FileChange(SPEC_FILE, Action.CREATE, None, WantedFile(content, tracked=False))
    action = Action.NONE if found.content == content else Action.UPDATE
    return FileChange(SPEC_FILE, action, found.content, WantedFile(content, found.mode, tracked=False))


def _effects(
    changes: tuple[FileChange, ...], previous: files.Manifest | None, topology: Topology
) -> tuple[Effect, ...]:
    """Read the old and new files themselves, so that the plan shows what Compose will do."""
    if previous is None or not any(change.changes for change in changes):
        return ()
    by_path = {change.path: change for change in changes}
    compose = by_path[COMPOSE_FILE]
    old, new = _services(compose.old), _services(compose.after)

    def confs(services: Mapping[str, Any], *, after: bool) -> dict[str, str]:
        found = {}
        for service, definition in services.items():
            change = by_path.get(f"{_config_folder(definition)}/postgresql.conf")
            content = change and (change.after if after else change.old)
            found[service] = content.decode() if content else ""
        return found

    found = effects(old, new, confs(old, after=False), confs(new, after=True))
    named = {effect.service for effect in found}
    # Compose does not see these files, so `up` restarts the containers itself.
    reread = {
        service.name: service
        for service in topology.services
        for name in service.restart_files
        if (change := by_path.get(f"{CONFIG_FOLDER}/{service.config}/{name}")) and change.changes
    }
    restarts = (
        Effect(name, EffectKind.RECREATE, (f"{service.restart_reason} has changed",))
        for name, service in reread.items()
        if name not in named
    )
    return (*found, *restarts)


@lru_cache(maxsize=4)
def _services(content: bytes | None) -> Mapping[str, Any]:
    """Read the services of a Compose file; cached, because a set-up plans twice, and 1,000 services take a second."""
    try:
        data = load_yaml(content.decode(), COMPOSE_FILE) if content else None
    except (SpecError, UnicodeDecodeError):
        return {}  # a hand-edited file that is not valid YAML will be replaced
    services = data.get("services") if isinstance(data, dict) else None
    return services if isinstance(services, dict) else {}


def _limits(root: Path) -> Mapping[str, int]:
    """Return the memory of the services in MB, as generated last; empty if that cannot be read."""
    found = files.read_file(root, COMPOSE_FILE)
    limits = {
        name: str(definition.get("mem_limit", "")) if isinstance(definition, dict) else ""
        for name, definition in _services(found.content if found else None).items()
    }
    return {name: int(limit[:-1]) for name, limit in limits.items() if limit[-1:] == "m" and limit[:-1].isdecimal()}


def _config_folder(definition: Any) -> str:
    volumes = definition.get("volumes", []) if isinstance(definition, dict) else []
    sources = [volume.get("source", "") for volume in volumes if isinstance(volume, dict)]
    return next((source.removeprefix("./") for source in sources if CONFIG_FOLDER in source), "")


def _warnings(
    request: SetupRequest, spec: ClusterSpec, topology: Topology, previous: files.Manifest | None
) -> list[str]:
    found = [warning for component in COMPONENTS.values() for warning in component.warnings(spec)]
    if ComponentName.CITUS not in spec.wanted and "workers" in request.values:
        found.append("--workers has no effect, because citus is not enabled.")
    old_image = previous.identity.get("image") if previous else None
    if old_image and old_image != spec.images.citus:
        found.append(
            f"The Citus image changes ({old_image} → {spec.images.citus}): citus-cluster up restarts every node with "
            "it, then runs ALTER EXTENSION citus UPDATE on the coordinator and every worker if the image's Citus "
            "is newer. This cannot be undone: make a backup first. up refuses an image that is older than the data."
        )
    if topology.nodes and spec.advertise:
        addresses = " and ".join(topology.service(topology.nodes[0].service).publish_on)
        found.append(
            f"Citus' ports are published on {addresses}, also for other servers. The network between them must be "
            "trusted: connections between nodes are encrypted, but the nodes do not verify each other's identity."
        )
    if topology.nodes and ":" in (spec.advertise or ""):
        found.append(
            f"{spec.advertise} is an IPv6 address, which nodes reach only if Docker's networks have IPv6; by default "
            "they do not. An IPv4 address or a name works everywhere."
        )
    if not spec.coordinator and topology.nodes and not has_password(request):
        found.append(
            "These workers get a new random password, so their coordinator cannot log in. Give the coordinator's "
            "password (its generated/secrets/superuser_password) with --password-file."
        )
    shadowing = [name for name in _PREFERRED_BY_COMPOSE if (request.root / name).exists()]
    if shadowing:
        found.append(
            f"docker compose reads {shadowing[0]} instead of docker-compose.yml if both exist. "
            "Move it away, or use citus-cluster up."
        )
    if spec.images.citus.endswith(":latest"):
        found.append(f"{spec.images.citus} may change its version at any pull. Use a tag with a version.")
    if topology.coordinator and not topology.workers:
        found.append("No workers: the coordinator holds the shards itself.")
    return found


def _notes_of_components(asked: ClusterSpec, spec: ClusterSpec) -> Iterator[str]:
    for component in wanted(spec):
        yield from component.notes(asked, spec)


def _notes_of_request(
    request: SetupRequest, spec: ClusterSpec, previous: files.Manifest | None, resources: HostResources
) -> Iterator[str]:
    """Return surprising effects of the current request."""
    numbers = spec.worker_numbers
    skipped = (
        taken_numbers(previous, resources) - {*numbers}
        if "workers" in request.values and not request.removed_workers
        else ()
    )
    for number in sorted(number for number in skipped if number < max(numbers, default=0)):
        service = f"citus-worker{number}"
        volume = volume_name(spec.name, service)
        exists = "exists" if resources.engine else "may exist, but no engine can be asked"
        yield f"{service} stays unused, because it was removed and its volume {exists} ({volume})."
    if "advertise" in request.values and spec.advertise and (resources.engine is None or resources.engine.is_local):
        with suppress(ValueError):
            address = str(ipaddress.ip_address(spec.advertise))
            if port_state(address, 0) is PortState.NOT_HERE:
                yield (
                    f"{address} is not an address of this machine. This is correct for files that are copied to "
                    "the machine "
                    "with this address, or behind NAT; otherwise correct --advertise before the first start."
                )


def _notes(resources: HostResources) -> list[str]:
    found = []
    if resources.missing:
        found.append(f"No Docker engine was asked: {resources.missing.message}")
    if shutil.which("psql") is None:
        found.append("psql is not installed here. Use the one in the containers: citus-cluster psql")
    return found
