"""Checks before a start: all problems at once, each with its solution."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from shutil import disk_usage
from typing import Any

from citus_cluster.errors import CitusClusterError, EngineUnavailableError, PreflightError
from citus_cluster.model.component import SECRETS_FOLDER
from citus_cluster.model.components import owner_of
from citus_cluster.model.documents import Documented
from citus_cluster.model.layout import COMPOSE_FILE
from citus_cluster.model.names import directory_problem
from citus_cluster.model.plan.changes import FileChange, digest
from citus_cluster.model.plan.compose_drift import service_drift
from citus_cluster.model.topology import Topology
from citus_cluster.model.tuning.log_space import LogSpace, describe, log_space, needed_mb
from citus_cluster.model.units import size
from citus_cluster.operations.directory import Directory, compare_files, compose_drift
from citus_cluster.render.bundle import CONFIG_FOLDER
from citus_cluster.runtime import host
from citus_cluster.runtime.docker import compose
from citus_cluster.runtime.docker.compose import Compose, ComposeError, parse_version
from citus_cluster.runtime.docker.engine import Container, Engine, EngineInfo, in_thread
from citus_cluster.runtime.ports import PortState, port_state
from citus_cluster.runtime.store import files, secrets

MINIMUM_ENGINE = (20, 10)

# A fresh data directory with its first WAL segments takes 60 MB; with the verification's tables, the
# server's logs and a margin (judgement).
_LEAST_FREE_MB_PER_NODE = 256
_MB = 1024 * 1024


class Severity(StrEnum):
    """Whether a finding prevents the start."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding(Documented):
    """One finding. ``id`` is stable, for scripts; ``hint`` says what to do."""

    id: str
    severity: Severity
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


@dataclass(frozen=True)
class Preflight:
    """Findings, and the inspected objects: the engine, the project's containers, the merged Compose services."""

    findings: tuple[Finding, ...]
    engine: Engine | None
    containers: tuple[Container, ...] = ()
    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity is Severity.WARNING)

    def passed(self) -> Engine:
        """Return the engine. Raises PreflightError with every finding that prevents the start."""
        if self.errors or self.engine is None:
            raise refusal(self.errors)
        return self.engine


def refusal(
    errors: Sequence[Finding], consequence: str = "nothing was started", prevented: str = "start"
) -> PreflightError:
    """Put findings into one error, with exit status 3."""
    problems = "1 problem prevents" if len(errors) == 1 else f"{len(errors)} problems prevent"
    return PreflightError(
        f"{problems} the {prevented}; {consequence}.",
        details=[str(finding) for finding in errors],
        hint="Fix the problems listed above, then run the command again.",
    )


def compose_of(directory: Directory) -> Compose:
    """Compose for this directory, with the profiles of its services."""
    topology = directory.topology
    return Compose(directory.root, topology.name, tuple(topology.components))


async def preflight(directory: Directory) -> Preflight:
    """Examine this machine, its engine and the directory, all at the same time; changes nothing."""
    about_files, (engine, about_engine), (services, about_compose) = await asyncio.gather(
        in_thread(lambda: [*_file_findings(directory), *stale_findings(directory)]),
        _find_engine(),
        _find_compose(directory),
    )
    findings = [*about_engine, *about_compose, *about_files]
    if services and not any(finding.id == "compose-conflict" for finding in about_files):
        findings += service_findings(directory.topology.service_names, services)
    if engine is None:
        return Preflight(tuple(findings), None, (), services)
    try:
        containers, more = await in_thread(_engine_findings, directory, engine, services)
    except EngineUnavailableError as error:
        return Preflight((*findings, _of_error("engine-unavailable", error)), None, (), services)
    return Preflight((*findings, *more), engine, containers, services)


async def _find_engine() -> tuple[Engine | None, list[Finding]]:
    try:
        return await in_thread(Engine.connect), []
    except EngineUnavailableError as error:
        return None, [_of_error("engine-unavailable", error)]


async def _find_compose(directory: Directory) -> tuple[Mapping[str, Mapping[str, Any]], list[Finding]]:
    there, config = await asyncio.gather(compose.version(), compose_of(directory).config(), return_exceptions=True)
    if isinstance(there, CitusClusterError):
        return {}, [_of_error("compose-missing", there)]
    if isinstance(config, ComposeError):
        if problem := directory_problem(str(directory.root.resolve())):
            hint = "Move it to another directory; the data stay in their volumes."
            message = f"The directory {str(directory.root)!r} {problem}, which Docker Compose does not support."
            return {}, [_error("directory-name", message, hint)]
        hint = "Correct docker-compose.yml or your override file, or write it again: setup_citus_cluster.py --force"
        return {}, [_error("compose-invalid", f"Compose refuses the files: {config.message}", hint)]
    for outcome in (there, config):
        if isinstance(outcome, BaseException):
            raise outcome
    assert not isinstance(config, BaseException)  # noqa: S101 - raised above
    return config.get("services") or {}, []


def _engine_findings(
    directory: Directory, engine: Engine, services: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[Container, ...], list[Finding]]:
    """Run the checks that need the engine. Blocks."""
    project = directory.topology.name
    info = engine.info()
    containers = engine.project_containers(project)
    names = [str(service["container_name"]) for service in services.values() if "container_name" in service]
    missing = sorted({str(s["image"]) for s in services.values() if "image" in s and not engine.has_image(s["image"])})
    findings = [
        *engine_version_findings(info.version),
        *project_findings(directory.root, containers),
        *name_findings(project, engine.containers_named(names)),
        *memory_findings(directory, info),
        *_disk_findings(info, directory.topology, len(missing)),
        *_image_findings(missing, services),
        *_platform_findings(directory, info),
    ]
    if engine.is_local:
        findings += _port_findings(engine, services, containers)
    return containers, findings


def _image_findings(missing: Sequence[str], services: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Report images that will be pulled; only the pull itself, before anything is started, shows whether it works."""
    built = {str(service.get("image")) for service in services.values() if "build" in service}
    for image in missing:
        if image not in built:
            yield _warning("image-absent", f"The image {image} is not on this engine yet; it will be pulled.", "")


def engine_version_findings(version: str) -> Iterator[Finding]:
    found = parse_version(version)
    if found and found[:2] < MINIMUM_ENGINE:
        yield _error(
            "engine-too-old",
            f"The Docker engine has version {version}, but 20.10 or newer is required.",
            "Update Docker.",
        )


def project_findings(root: Path, containers: Iterable[Container]) -> Iterator[Finding]:
    """Refuse a project whose containers were created from another directory, with other passwords and settings."""
    others = {c.working_dir for c in containers if c.working_dir and Path(c.working_dir).resolve() != root.resolve()}
    for other in sorted(others):
        project = next(c.project for c in containers if c.working_dir == other)
        yield _error(
            "other-directory",
            f"A cluster named {project!r} already has containers here, created from another directory: {other}.",
            f"Run the command there, or choose another --name. If that directory was moved here, remove the containers "
            f"(the data stay): docker compose -p {project} --profile '*' down",
        )


def name_findings(project: str, containers: Iterable[Container]) -> Iterator[Finding]:
    for container in containers:
        if container.project == project:
            continue
        owner = f"project {container.project!r}" if container.project else "another program than Compose"
        yield _error(
            "name-taken",
            f"A container named {container.name} already exists, from {owner}.",
            f"Choose another --name, or, if you no longer need the container, remove it: docker rm -f {container.name}",
        )


def memory_findings(directory: Directory, info: EngineInfo) -> Iterator[Finding]:
    """Compare the memory limits with what the engine has.

    A server uses a quarter of its limit for shared_buffers, and the rest under load. So with limits of up to twice the
    memory, the services can start, and run out of memory only under load; beyond that, they would at once (judgement).
    """
    topology = directory.topology
    if not topology.tuning.fits:
        yield _error(
            "memory-short", "The cluster does not fit into the memory. " + " ".join(topology.tuning.warnings), ""
        )
        return
    limits_mb = sum(service.memory_mb for service in topology.services)
    if limits_mb <= info.memory_mb:
        return
    message = f"The containers may use {limits_mb} MB, but the Docker engine has {info.memory_mb} MB."
    hint = "Fit them to this engine (python setup_citus_cluster.py --memory=auto --yes), or give it more memory."
    if limits_mb > 2 * info.memory_mb:
        yield _error("memory-short", message, hint)
    else:
        yield _warning("memory-overcommitted", message + " Under load the kernel will kill servers.", hint)


def _disk_findings(info: EngineInfo, topology: Topology, missing_images: int) -> Iterator[Finding]:
    if info.storage_root is None:
        return
    try:
        free_mb = disk_usage(info.storage_root).free // _MB
    except OSError:
        return  # not visible to us; the engine itself will report when it is full
    logs = [log_space(service.name, service.settings) for service in topology.services if service.settings]
    yield from disk_findings(free_mb, info.storage_root, len(topology.services), logs, missing_images)


def disk_findings(
    free_mb: int, root: Path, services: int, logs: Sequence[LogSpace], missing_images: int
) -> Iterator[Finding]:
    """Check the free space on the engine's disk; a Citus image takes about 1 GB."""
    least_mb = services * _LEAST_FREE_MB_PER_NODE + missing_images * 1024
    good_mb = max(least_mb, needed_mb(logs))
    message = f"Only {size(free_mb * _MB)} are free on the disk of the Docker engine ({root})"
    hint = "Free some space: docker system df shows the usage, docker image prune removes unused images."
    if free_mb < least_mb:
        yield _error("disk-low", f"{message}; {size(least_mb * _MB)} are needed for {services} services.", hint)
    elif free_mb < good_mb:
        grows = f"; the write-ahead logs can grow to {size(good_mb * _MB)} together ({describe(logs)})."
        smaller = "For smaller logs, set max_wal_size and max_slot_wal_keep_size below settings in cluster.yaml."
        yield _warning("disk-low", f"{message}{grows if logs else '.'}", f"{hint} {smaller}")


def _platform_findings(directory: Directory, info: EngineInfo) -> Iterator[Finding]:
    image = directory.topology.citus_image
    if directory.topology.nodes and image.platform == "linux/amd64" and info.architecture in {"aarch64", "arm64"}:
        yield _warning(
            "platform-emulated",
            f"{image.name} exists only for x86-64, but this engine runs on ARM: it will be emulated, and slow.",
            "Turn on Rosetta in Docker Desktop (Settings, General), because with QEMU PostgreSQL can crash. "
            "An image that was built for ARM avoids both: --citus-image",
        )


def published(services: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, int]]:
    """Yield (service, address, port) for every port that the merged Compose file publishes."""
    for name, service in services.items():
        for port in service.get("ports") or ():
            if str(port.get("published", "")).isdigit() and port.get("protocol", "tcp") == "tcp":
                yield name, str(port.get("host_ip") or "0.0.0.0"), int(port["published"])  # noqa: S104 - Docker's default


def _port_findings(
    engine: Engine, services: Mapping[str, Mapping[str, Any]], containers: Iterable[Container]
) -> Iterator[Finding]:
    own = {port for c in containers if c.state in {"running", "paused", "restarting"} for _, port in c.ports}
    holders: Mapping[int, str] | None = None
    for service, address, port in published(services):
        state = PortState.FREE if port in own else port_state(address, port)
        if state is PortState.NOT_HERE:
            yield _error(
                "address-not-here",
                f"{service}: {address} is not an address of this machine, so port {port} cannot be published on it.",
                "Correct --bind (or --advertise, which may be a name).",
            )
        if state is not PortState.TAKEN:
            continue
        holders = engine.published_ports() if holders is None else holders
        container = holders.get(port)
        owner = f"container {container}" if container else host.port_owner(port) or "a process that you may not see"
        yield _error(
            "port-taken",
            f"{service}: port {port} on {address} is in use by {owner}.",
            f"Stop it, or choose another {_port_option(service)}.",
        )


def _port_option(service: str) -> str:
    """Return the option of the set-up for the host port of a Compose service."""
    owner = owner_of(service)
    return owner.port_option if owner else "--port"


def _file_findings(directory: Directory) -> Iterator[Finding]:
    """Check for losses of a copied directory: files, modes of secrets, and files that containers must read."""
    root = directory.root
    missing = sorted(path for path in directory.manifest.files if not (root / path).is_file())
    if missing:
        yield _error(
            "files-missing",
            f"Generated files are missing: {_some(missing)}.",
            "Write them again: python setup_citus_cluster.py --yes",
        )
    folder = root / SECRETS_FOLDER
    if folder.stat().st_mode & 0o077:
        yield _warning(
            "secret-modes", f"Other users of this machine can read {SECRETS_FOLDER}/.", f"chmod 700 {SECRETS_FOLDER}"
        )
    needed = secrets.prepare(root, given_password=None, wanted=directory.spec.wanted).files
    for path, wanted in needed.items():
        found = files.read_file(root, path)
        if found is None or not found.content:
            yield _error("secret-missing", f"{path} is missing.", "Create it: python setup_citus_cluster.py --yes")
        elif wanted.mode & ~found.mode & 0o004:
            yield _error(
                "secret-modes",
                f"A process without root cannot read {path}: its mode is {found.mode:o}.",
                f"chmod 644 {path}",
            )
        else:
            yield _warning("secret-modes", f"{path} has mode {found.mode:o}.", f"chmod {wanted.mode:o} {path}")
    unreadable = sorted(
        path.relative_to(root).as_posix()
        for path in (root / CONFIG_FOLDER).rglob("*")
        if path.stat().st_mode & (0o005 if path.is_dir() else 0o004) != (0o005 if path.is_dir() else 0o004)
    )
    if unreadable:
        yield _error(
            "config-unreadable",
            f"Containers cannot read {_some(unreadable)}: the modes were lost by copying.",
            f"chmod -R a+rX {CONFIG_FOLDER}",
        )


def stale_findings(directory: Directory) -> Iterator[Finding]:
    """Compare the files with the current cluster.yaml."""
    root, topology = directory.root, directory.topology
    made = secrets.prepare(root, given_password=None, wanted=directory.spec.wanted)
    changes = compare_files(root, topology, made, directory.manifest.files)
    stale = [change for change in changes if change.changes and change.old is not None]
    edited = next((change for change in stale if change.path == COMPOSE_FILE and change.edited), None)
    if edited and (lines := compose_drift(edited)):
        stale.remove(edited)
        yield _edited_compose_finding(edited, lines, directory.manifest.files)
    if stale:
        yield _warning(
            "files-differ",
            f"Generated files do not match cluster.yaml: {_some([change.path for change in stale])}.",
            "Check the changes with setup_citus_cluster.py --dry-run, then write the files with --yes.",
        )


def _edited_compose_finding(edited: FileChange, lines: Sequence[str], recorded: Mapping[str, Sequence[str]]) -> Finding:
    """Judge an edited docker-compose.yml that differs from the wanted one in ``lines``.

    If setup has already written the wanted file, the edit is the difference. Otherwise a newer version of this tool, or
    a change of cluster.yaml, requires another file now, which is no mistake of the user as long as the services match.
    """
    last = next(iter(recorded.get(COMPOSE_FILE, ())), None)
    written = edited.wanted is not None and digest(edited.wanted.content) == last
    if written or compose_drift(edited, service_drift):
        return _error(
            "compose-conflict",
            f"{COMPOSE_FILE} does not match cluster.yaml, and setup did not write it: {_some(lines, '; ')}.",
            "An older copy may have been restored, or the file was edited. To see the difference: python "
            "setup_citus_cluster.py "
            "--force --dry-run. Then write it again with --force, which keeps the old file as .bak. Put your "
            "own services and "
            "values into docker-compose.override.yml.",
        )
    return _warning(
        "files-differ",
        f"{COMPOSE_FILE} was edited, and setup would now write another one: {_some(lines, '; ')}.",
        "The cluster runs with the current file. To see the difference: python setup_citus_cluster.py --force "
        "--dry-run. To apply the changes, move your own services and values into docker-compose.override.yml, then "
        "write the file with --force, which keeps the old one as .bak.",
    )


def service_findings(wanted: Sequence[str], services: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Refuse Compose files without a wanted service: ``up`` would wait for it, or stop it."""
    missing = [name for name in wanted if name not in services]
    if missing:
        yield _error(
            "service-missing",
            f"cluster.yaml names {_some(missing)}, but the Compose files do not define it with an active profile.",
            "Write the files again: python setup_citus_cluster.py --yes. A docker-compose.override.yml must "
            "not change the "
            "profiles of these services.",
        )


def _some(parts: Sequence[str], separator: str = ", ") -> str:
    """Name the first few, and count the others."""
    return separator.join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")


def _of_error(finding_id: str, error: CitusClusterError) -> Finding:
    return _error(finding_id, error.message, error.hint or "")


def _error(finding_id: str, message: str, hint: str) -> Finding:
    return Finding(finding_id, Severity.ERROR, message, hint)


def _warning(finding_id: str, message: str, hint: str) -> Finding:
    return Finding(finding_id, Severity.WARNING, message, hint)
