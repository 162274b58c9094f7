"""The set-up: from options and cluster.yaml to the generated directory, as a plan that is then applied."""

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from citus_cluster.errors import (
    ConsentNeededError,
    EditedFileError,
    EngineUnavailableError,
    ImmutableError,
    LeftoverVolumesError,
    SpecError,
    UsageError,
)
from citus_cluster.model.changes import Action, FileChange, WantedFile, plan_files
from citus_cluster.model.effects import Effect, effects
from citus_cluster.model.images import known_pg_major
from citus_cluster.model.services import Service
from citus_cluster.model.spec import API_VERSION, ClusterSpec, grown_workers, parse_spec
from citus_cluster.model.topology import Topology, pg14_port, resolve
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.operations.directory import read_spec
from citus_cluster.render.bundle import COMPOSE_FILE, CONFIG_FOLDER, GITIGNORE_FILE, SPEC_FILE, render_bundle
from citus_cluster.render.spec_file import render_spec
from citus_cluster.runtime import files, host, secrets
from citus_cluster.runtime.engine import Engine
from citus_cluster.runtime.resources import load_sources
from citus_cluster.runtime.secrets import Secrets

_PREFERRED_BY_COMPOSE = ("compose.yaml", "compose.yml")
_COMPANIONS_TO_COME = frozenset({Service.PG14, Service.REDIS, Service.CASSANDRA})


@dataclass(frozen=True)
class SetupRequest:
    """What the user asks for.

    ``values`` holds what was given, by dotted path of the specification (``ports.citus``), and
    ``origins`` the name under which it was given (``--port``). ``redetect`` asks for memory and
    processors to be detected again.
    """

    root: Path
    spec_file: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    password: str | None = field(default=None, repr=False)
    redetect: frozenset[str] = frozenset()
    replace_edited: bool = False


@dataclass(frozen=True)
class SetupPlan:
    """What a set-up would write, and what that means; printed, tested and applied from this one value."""

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
        """Every file that changes, in the order in which it is shown; secrets without their content."""
        return tuple(change for change in (self.spec_change, *self.secret_changes, *self.changes) if change.changes)

    @property
    def nothing_to_do(self) -> bool:
        return not self.all_changes

    @property
    def needs_consent(self) -> bool:
        """An existing cluster's files change; a first run in a directory only adds files."""
        return self.previous is not None and not self.nothing_to_do

    @property
    def kept_edits(self) -> tuple[str, ...]:
        return tuple(change.path for change in self.changes if change.action is Action.KEEP)

    @property
    def replaced_edits(self) -> tuple[str, ...]:
        return tuple(change.path for change in self.changes if change.changes and change.edited)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, in stable order, without secrets."""
        return {
            "directory": str(self.root),
            "cluster": self.spec.name,
            "would_change": not self.nothing_to_do,
            "files": [{"path": change.path, "action": change.action.value} for change in self.all_changes],
            "kept_edits": list(self.kept_edits),
            "replaced_edits": list(self.replaced_edits),
            "services": [effect.as_dict() for effect in self.effects],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "spec": self.spec.as_data(),
        }


class _Host:
    """The engine, asked only when a value is really missing, and this machine where there is none."""

    def __init__(self, connect: Callable[[], Engine]) -> None:
        self._connect = connect
        self._engine: Engine | None = None
        self._asked = False
        self.missing: EngineUnavailableError | None = None

    @property
    def engine(self) -> Engine | None:
        if not self._asked:
            self._asked = True
            try:
                self._engine = self._connect()
            except EngineUnavailableError as error:
                self.missing = error
        return self._engine

    def memory_mb(self) -> int:
        return self.engine.info().memory_mb if self.engine else host.memory_mb()

    def cpus(self) -> int:
        return self.engine.info().cpus if self.engine else host.cpus()


def plan_setup(request: SetupRequest, *, connect_engine: Callable[[], Engine] = Engine.connect) -> SetupPlan:
    """Decide what to write; nothing is written.

    Raises SpecError, UsageError, ImmutableError, DoesNotFitError, LeftoverVolumesError.
    """
    machine = _Host(connect_engine)
    previous = files.read_manifest(request.root)
    spec = _merged_spec(request, previous)
    spec = _resolved_spec(spec, request, machine)
    pg_major = _pg_major(spec, previous, machine)
    topology, warnings = resolve(
        spec, memory_mb=spec.resources.memory_mb or 0, cpus=spec.resources.cpus or 1, pg_major=pg_major
    )
    identity = _identity(topology, previous)
    _refuse_immutable(identity, topology, previous)
    made = secrets.prepare(request.root, given_password=request.password, admin_api=topology.admin_api is not None)
    _refuse_leftover_volumes(request, spec, machine)
    found_ignore = files.read_file(request.root, GITIGNORE_FILE)
    wanted = render_bundle(
        topology,
        load_sources(),
        tokens=made.tokens,
        gitignore=found_ignore.content.decode(errors="surrogateescape") if found_ignore else None,
    )
    recorded = previous.files if previous else {}
    found = files.read_files(request.root, {*wanted, *recorded})
    changes = plan_files(wanted, found, recorded, replace_edited=request.replace_edited)
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
        effects=_effects(changes, previous),
        warnings=(*warnings, *_warnings(request, spec, topology, previous)),
        notes=tuple(_notes(machine)),
        identity=identity,
        previous=previous,
    )


def apply_setup(plan: SetupPlan, *, consent: bool, replace_edited: bool) -> None:
    """Write what the plan says; the caller holds the directory's lock.

    Raises ConsentNeededError or EditedFileError before anything is written, WriteError.
    """
    if plan.nothing_to_do:
        return
    if plan.replaced_edits and not replace_edited:
        raise EditedFileError(
            "Files that this run must replace are not this tool's, or were edited since; nothing was written.",
            details=plan.replaced_edits,
            hint="Move the edits into cluster.yaml (settings) or docker-compose.override.yml; "
            "or replace the files with --force, which keeps each one beside as .bak.",
        )
    if plan.needs_consent and not consent:
        raise ConsentNeededError(
            "Files of an existing cluster would change, and nobody agreed to it; nothing was written.",
            hint="Look at the changes with --dry-run, then agree with --yes.",
        )
    spec_file = plan.spec_change.wanted if plan.spec_change.changes else None
    files.apply_changes(
        plan.root,
        plan.changes,
        secrets=plan.secrets.files,
        spec=spec_file,
        identity=plan.identity,
        previous=plan.previous,
    )


def _merged_spec(request: SetupRequest, previous: files.Manifest | None) -> ClusterSpec:
    """Lay what was given over the specification."""
    own = request.root / SPEC_FILE
    source = request.spec_file or (own if own.exists() else None)
    data: Any = read_spec(source, source.name) if source else {"apiVersion": API_VERSION}
    if data is None:
        data = {}
    name = source.name if source else ""
    if not isinstance(data, dict):
        return parse_spec(data, source=name)
    data = copy.deepcopy(data)
    for path, value in request.values.items():
        if path == "workers":
            current = data.get("workers", list(_known_workers(previous)) if previous else None)
            value = grown_workers(current, value) if isinstance(current, list) else value
        _put(data, path.split("."), value)
    _mark_given(data, request)
    origins = {path: origin for path, origin in request.origins.items() if path in request.values}
    return parse_spec(data, origins=origins, source=name)


def _put(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        if not isinstance(inner, dict):
            inner = data[key] = {}
        data = inner
    if value is None:
        data.pop(keys[-1], None)
    else:
        data[keys[-1]] = value


def _mark_given(data: dict[str, Any], request: SetupRequest) -> None:
    """What is given from now on is no longer 'detected', and what shall be detected again is not given."""
    resources = data.get("resources")
    if not isinstance(resources, dict):
        return
    for name in request.redetect:
        resources.pop(name, None)
    given = {path.removeprefix("resources.") for path in request.values}
    detected = resources.get("detected")
    if isinstance(detected, list):
        resources["detected"] = [item for item in detected if item not in given | request.redetect]


def _resolved_spec(spec: ClusterSpec, request: SetupRequest, machine: _Host) -> ClusterSpec:
    """Fill in what is saved, so that it never changes by itself: detected values, services, ports."""
    to_come = [service.value for service in spec.wanted if service in _COMPANIONS_TO_COME]
    if to_come:
        raise SpecError(
            f"This version does not run {', '.join(to_come)} yet; nothing was written.",
            hint="Choose from: --services citus,admin-api",
        )
    resources = spec.resources
    saved = _saved_detection(request) if request.spec_file else {}
    updates: dict[str, Any] = {}
    detected: list[str] = [*resources.detected]
    for name, detect in (("memory_mb", machine.memory_mb), ("cpus", machine.cpus)):
        if getattr(resources, name) is None:
            updates[name] = saved[name] if name in saved and name not in request.redetect else detect()
            detected.append(name)
    if updates:
        resources = resources.model_copy(update={**updates, "detected": sorted(set(detected))})
    ports = spec.ports
    if Service.PG14 in spec.wanted:
        ports = ports.model_copy(update={"pg14": pg14_port(ports.citus, ports.pg14)})
    return spec.model_copy(update={"resources": resources, "ports": ports, "services": list(spec.wanted)})


def _saved_detection(request: SetupRequest) -> dict[str, int]:
    """What was detected for this directory before, where the run starts from another file."""
    found = files.read_file(request.root, SPEC_FILE)
    if found is None:
        return {}
    resources = parse_spec(load_yaml(found.content.decode(), SPEC_FILE)).resources
    values = {name: getattr(resources, name) for name in resources.detected}
    return {name: value for name, value in values.items() if value is not None}


def _pg_major(spec: ClusterSpec, previous: files.Manifest | None, machine: _Host) -> int:
    image = spec.images.citus
    known = known_pg_major(image)
    if spec.images.pg_major is not None:
        if known is not None and known != spec.images.pg_major:
            raise SpecError(
                f"{image} runs PostgreSQL {known}, not {spec.images.pg_major}; nothing was written.",
                hint="Leave --pg-major (images.pg_major) away: it is for images whose name does not tell.",
            )
        return spec.images.pg_major
    if known is not None:
        return known
    if previous and previous.identity.get("image") == image:
        return int(previous.identity["pg_major"])
    probed = machine.engine.image_pg_major(image) if machine.engine else None
    if probed is None:
        raise UsageError(
            f"Which PostgreSQL major does {image} run? Its name does not tell, and it is not on this machine.",
            hint="Say it, for example --pg-major 17; or docker pull the image first, and it is looked up.",
        )
    return probed


def _identity(topology: Topology, previous: files.Manifest | None) -> dict[str, Any]:
    """What later runs must not change, kept in the manifest; nodes that are switched off stay in it."""
    addresses = dict(previous.identity.get("addresses", {})) if previous else {}
    addresses |= {node.service: str(node.address) for node in topology.nodes}
    return {
        "name": topology.name,
        "user": topology.user,
        "database": topology.database,
        "image": topology.citus_image.name,
        "pg_major": topology.citus_image.pg_major,
        "addresses": addresses,
    }


def _known_workers(previous: files.Manifest) -> tuple[int, ...]:
    names = previous.identity.get("addresses", {})
    return tuple(sorted(int(name.removeprefix("citus-worker")) for name in names if name.startswith("citus-worker")))


_WAYS = {
    "name": "It names the volumes with the data. Make a new cluster in another directory and move the data (pg_dump).",
    "user": "Rename the role in the database, or make a new cluster in another directory.",
    "database": "Create the database by SQL, or make a new cluster in another directory.",
    "pg_major": "Its data would not start. Make a new cluster in another directory, and move the data with "
    "pg_dump and pg_restore; or follow the upgrade path of Citus by hand (pg_upgrade on every node).",
}


def _refuse_immutable(identity: Mapping[str, Any], topology: Topology, previous: files.Manifest | None) -> None:
    if previous is None:
        return
    labels = {"pg_major": "PostgreSQL major"}
    details = []
    hints = []
    for key, way in _WAYS.items():
        old, new = previous.identity.get(key), identity[key]
        if old is not None and old != new:
            details.append(f"{labels.get(key, key)}: {old} → {new}")
            hints.append(way)
    for service, address in previous.identity.get("addresses", {}).items():
        if identity["addresses"][service] != address:
            details.append(f"address of {service}: {address} → {identity['addresses'][service]}")
            hints.append("Other nodes know this one by its address (--advertise and --port): keep it.")
    if details:
        raise ImmutableError(
            "This cannot change in an existing cluster; nothing was written.",
            details=details,
            hint=" ".join(dict.fromkeys(hints)),
        )
    if Service.CITUS in topology.services:
        here = {node.service for node in topology.nodes}
        missing = [service for service in previous.identity.get("addresses", {}) if service not in here]
        if missing:
            raise ImmutableError(
                f"This would take {', '.join(missing)} out of the cluster, with the shards there; nothing was written.",
                hint="Keep the number of workers: a worker must be drained before it can leave.",
            )


def _refuse_leftover_volumes(request: SetupRequest, spec: ClusterSpec, machine: _Host) -> None:
    """A new password would lock the user out of data that an earlier cluster left."""
    if _has_password(request):
        return
    volumes = machine.engine.project_volumes(spec.name) if machine.engine else ()
    if volumes:
        raise LeftoverVolumesError(
            f"Volumes of an earlier cluster named {spec.name!r} are on this engine, "
            "and a new password would not open them; nothing was written.",
            details=volumes,
            hint="Run in that cluster's directory; or give its password with --password-file; or choose another "
            f"--name; or, if nothing in them is needed, remove them: docker volume rm {' '.join(volumes)}",
        )


def _spec_change(request: SetupRequest, spec: ClusterSpec) -> FileChange:
    found = files.read_file(request.root, SPEC_FILE)
    base = found.content.decode() if found else None
    if base is None and request.spec_file:
        base = request.spec_file.read_text(encoding="utf-8")
    content = render_spec(spec, base).encode()
    if found is None:
        return FileChange(SPEC_FILE, Action.CREATE, None, WantedFile(content, tracked=False))
    action = Action.NONE if found.content == content else Action.UPDATE
    return FileChange(SPEC_FILE, action, found.content, WantedFile(content, found.mode, tracked=False))


def _effects(changes: tuple[FileChange, ...], previous: files.Manifest | None) -> tuple[Effect, ...]:
    """Read from the files themselves, old and new, so that what is said is what Compose will see."""
    if previous is None or not any(change.changes for change in changes):
        return ()
    by_path = {change.path: change for change in changes}
    compose = by_path[COMPOSE_FILE]
    old, new = (_services(content) for content in (compose.old, compose.wanted.content if compose.wanted else None))

    def confs(services: Mapping[str, Any], *, after: bool) -> dict[str, str]:
        found = {}
        for service, definition in services.items():
            change = by_path.get(f"{_config_folder(definition)}/postgresql.conf")
            content = change and (change.wanted.content if after and change.wanted else change.old)
            found[service] = content.decode() if content else ""
        return found

    return effects(old, new, confs(old, after=False), confs(new, after=True))


@lru_cache(maxsize=4)
def _services(content: bytes | None) -> Mapping[str, Any]:
    """Read the services of a Compose file; kept, because a set-up plans twice, and 1,000 services take a second."""
    try:
        data = load_yaml(content.decode(), COMPOSE_FILE) if content else None
    except (SpecError, UnicodeDecodeError):
        return {}  # a hand-edited file that is no longer YAML is about to be replaced
    services = data.get("services") if isinstance(data, dict) else None
    return services if isinstance(services, dict) else {}


def _config_folder(definition: Any) -> str:
    volumes = definition.get("volumes", []) if isinstance(definition, dict) else []
    sources = [volume.get("source", "") for volume in volumes if isinstance(volume, dict)]
    return next((source.removeprefix("./") for source in sources if CONFIG_FOLDER in source), "")


def _has_password(request: SetupRequest) -> bool:
    return request.password is not None or secrets.saved(request.root, secrets.SUPERUSER_PASSWORD) is not None


def _warnings(
    request: SetupRequest, spec: ClusterSpec, topology: Topology, previous: files.Manifest | None
) -> list[str]:
    found = []
    if Service.CITUS not in spec.wanted and "workers" in request.values:
        found.append("--workers has no effect: citus is not among the services.")
    old_image = previous.identity.get("image") if previous else None
    if old_image and old_image != spec.images.citus:
        found.append(
            f"The Citus image changes ({old_image} → {spec.images.citus}): once all nodes run it, "
            "run ALTER EXTENSION citus UPDATE on every node."
        )
    if topology.nodes and spec.advertise:
        addresses = " and ".join(topology.publish_citus_on)
        found.append(
            f"Citus' ports are published on {addresses} for other servers: the network between them must be "
            "trusted: connections between nodes are encrypted, but the nodes do not check each other's identity."
        )
    if not spec.coordinator and topology.nodes and not _has_password(request):
        found.append(
            "These workers get a password of their own, and their coordinator could not log in: give "
            "the coordinator's (its generated/secrets/superuser_password) with --password-file."
        )
    shadowing = [name for name in _PREFERRED_BY_COMPOSE if (request.root / name).exists()]
    if shadowing:
        found.append(
            f"docker compose reads {shadowing[0]} instead of docker-compose.yml where both exist: "
            "move it away, or use citus-cluster up."
        )
    if spec.images.citus.endswith(":latest"):
        found.append(f"{spec.images.citus} may become another version at any pull: name a version.")
    if spec.workers == 0 and Service.CITUS in spec.wanted:
        found.append("No workers: the coordinator holds the shards itself.")
    return found


def _notes(machine: _Host) -> list[str]:
    found = []
    if machine.missing:
        found.append(f"No Docker engine was asked: {machine.missing.message}")
    if shutil.which("psql") is None:
        found.append("psql is not installed here; use the one in the containers (docker exec …).")
    return found
