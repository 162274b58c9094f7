"""Loading an existing generated directory, with which every operation after the set-up starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from stat import S_ISFIFO, S_ISREG
from typing import TYPE_CHECKING

from citus_cluster.errors import SpecError, UsageError
from citus_cluster.model.component import Secret, Service
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.identity import identity_of, refuse_immutable
from citus_cluster.model.images import known_pg_major
from citus_cluster.model.layout import COMPOSE_FILE, SPEC_FILE
from citus_cluster.model.plan.changes import Action, FileChange, plan_files
from citus_cluster.model.plan.compose_drift import drift
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import Topology, resolve
from citus_cluster.model.units import size
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.render.bundle import CONFIG_FOLDER, GITIGNORE_FILE, render_bundle
from citus_cluster.runtime.store import secrets
from citus_cluster.runtime.store.files import Manifest, read_file, read_files, read_manifest
from citus_cluster.runtime.store.resources import load_sources

if TYPE_CHECKING:
    from citus_cluster.runtime.postgres import ConnectionInfo


_SPEC_LIMIT_BYTES = 1024 * 1024
"""A specification of 1,000 workers, each with its own settings, has a tenth of this size."""


@dataclass(frozen=True)
class Directory:
    """The directory of one cluster on this host."""

    root: Path
    spec: ClusterSpec
    topology: Topology
    manifest: Manifest
    password: str = field(repr=False)

    def coordinator(self) -> "ConnectionInfo":
        """Return how this machine connects to the coordinator. Raises UsageError if there is none."""
        if not self.spec.coordinator:
            raise UsageError(
                "This directory has no coordinator: its workers belong to a coordinator on another server.",
                hint="Run the command in the coordinator's directory, or name the coordinator with --dsn.",
            )
        if self.topology.coordinator is None:
            raise UsageError(
                "Citus is not enabled in this directory.",
                hint="Add it to the services in cluster.yaml, then run setup_citus_cluster.py and citus-cluster up.",
            )
        return self.connection(self.topology.service(self.topology.coordinator.service))

    def connection(self, server: Service) -> "ConnectionInfo":
        """Return how this machine connects to a PostgreSQL server with a login: by its published port."""
        # Imported here: the driver costs 50 ms, and a set-up does not need it.
        from citus_cluster.runtime.postgres import ConnectionInfo

        assert server.login, "only PostgreSQL servers are connected to"  # noqa: S101
        return ConnectionInfo(
            host=self.topology.connect_host,
            port=server.host_port,
            user=server.login.user,
            database=server.login.database,
            password=self.secret(server.login.secret),
        )

    def password_of(self, component: ComponentName) -> str:
        """Read the password of a component; empty for one that has none. Raises UsageError if it is missing."""
        secret = COMPONENTS[component].password
        return self.secret(secret) if secret else ""

    def secret(self, secret: Secret) -> str:
        """Read a secret of this cluster. Raises UsageError if it is missing."""
        found = secrets.saved(self.root, secret.path)
        if found is None:
            raise UsageError(
                f"{secret.path} is missing.", hint="Restore it from a copy: the data were created with this secret."
            )
        return found


def read_spec(path: Path, source: str) -> object:
    """Read a specification as plain data. Raises UsageError, SpecError."""
    return load_yaml(read_spec_text(path), source)


def read_spec_text(path: Path, *, from_pipe: bool = False) -> str:
    """Read the text of a specification. Raises UsageError.

    ``from_pipe`` also allows a pipe such as ``/dev/stdin``, which only a file named by the user may be: a FIFO in the
    cluster's own directory has no writer, and opening it would wait forever.
    """
    try:
        mode = path.stat().st_mode
        if not (S_ISREG(mode) or (from_pipe and S_ISFIFO(mode))):
            raise UsageError(f"{path} is not a regular file.", hint="Write the specification into a file.")
        with path.open("rb") as file:
            content = file.read(_SPEC_LIMIT_BYTES + 1)
        if len(content) > _SPEC_LIMIT_BYTES:
            found = size(path.stat().st_size) if S_ISREG(mode) else f"more than {size(_SPEC_LIMIT_BYTES)}"
            raise UsageError(
                f"{path} has {found}; a specification has at most {size(_SPEC_LIMIT_BYTES)}.",
                hint="Remove everything that is not a setting of the cluster; docs/configuration.md lists every key.",
            )
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {reason}.", hint="Check the path and its permissions.") from error


def load(root: Path, *, may_lack_workers: bool = False) -> Directory:
    """Load a directory that a set-up wrote; ``may_lack_workers`` is for commands that remove workers from cluster.yaml.

    Raises UsageError if there is none, SpecError, and ImmutableError if cluster.yaml now describes another cluster:
    with another name, new and empty volumes would be created.
    """
    manifest = read_manifest(root)
    password = secrets.saved(root, secrets.SUPERUSER_PASSWORD)
    if manifest is None or password is None or read_file(root, SPEC_FILE) is None:
        missing = "generated/" if manifest is None else secrets.SUPERUSER_PASSWORD if password is None else SPEC_FILE
        raise UsageError(
            f"There is no complete cluster in {root}: {missing} is missing.",
            hint="Create one first: python setup_citus_cluster.py"
            + ("" if (root / SPEC_FILE).exists() else " --workers=3")
            + ("" if root == Path.cwd() else f" --output-dir {quote(str(root))}")
            + (" (it starts from cluster.yaml)" if (root / SPEC_FILE).exists() else "")
            + ". Or name another directory with --dir.",
        )
    spec = parse_spec(read_spec(root / SPEC_FILE, SPEC_FILE))
    pg_major = spec.images.pg_major or known_pg_major(spec.images.citus) or manifest.identity.get("pg_major")
    if spec.resources.memory_mb is None or spec.resources.cpus is None or pg_major is None:
        raise UsageError(
            f"{SPEC_FILE} was changed, but the set-up has not run since.",
            hint="Run python setup_citus_cluster.py again in this directory.",
        )
    topology, _ = resolve(spec, memory_mb=spec.resources.memory_mb, cpus=spec.resources.cpus, pg_major=int(pg_major))
    removed_workers = manifest.identity.get("addresses", {}) if may_lack_workers else ()
    refuse_immutable(manifest.identity, identity_of(topology, manifest.identity, removed_workers), topology)
    return Directory(root, spec, topology, manifest, password)


def compare_files(
    root: Path,
    topology: Topology,
    made: secrets.Secrets,
    recorded: Mapping[str, Sequence[str]],
    *,
    replace_edited: bool = False,
) -> tuple[FileChange, ...]:
    """Compare the files of ``topology`` with those in ``root``; arguments as in plan_files.

    A docker-compose.yml that was edited, or restored from an older copy, is kept only if it has everything that
    ``topology`` needs, because Compose would not start missing parts.
    """
    ignore = read_file(root, GITIGNORE_FILE)
    wanted = render_bundle(
        topology,
        load_sources(),
        digests=made.digests,
        # The user's own lines are written back unchanged, in any encoding.
        gitignore=ignore.content.decode(errors="surrogateescape") if ignore else None,
        copies=_read_copies(root, topology),
    )
    changes = plan_files(wanted, read_files(root, {*wanted, *recorded}), recorded, replace_edited=replace_edited)
    return tuple(
        replace(change, action=Action.UPDATE)
        if change.path == COMPOSE_FILE and change.action is Action.KEEP and compose_drift(change)
        else change
        for change in changes
    )


def _read_copies(root: Path, topology: Topology) -> dict[str, str]:
    """Read the user's files that containers get a copy of. If one is gone, for example after the directory was moved,
    the existing copy stays.

    Raises UsageError if there is neither, or for a content that cannot be used.
    """
    copies = {}
    copied = ((service, file) for service in topology.services for file in service.files if file.copy_of)
    for service, file in copied:
        found = read_file(root, file.copy_of) or read_file(root, f"{CONFIG_FOLDER}/{service.config}/{file.name}")
        if found is None:
            raise UsageError(
                f"{root / file.copy_of}, which {SPEC_FILE} names, does not exist.",
                hint="Restore it, or change its path.",
            )
        try:
            text = found.content.decode()
            problem = COMPONENTS[service.component].copy_problem(file, text)
        except UnicodeDecodeError:
            text, problem = "", "it is not UTF-8 text"
        if problem:
            raise UsageError(
                f"{root / file.copy_of} cannot be used: {problem}.",
                hint="Correct the file, or its path in cluster.yaml, then run setup_citus_cluster.py again.",
            )
        copies[file.copy_of] = text
    return copies


def compose_drift(change: FileChange, compare: Callable[[object, object], tuple[str, ...]] = drift) -> tuple[str, ...]:
    """Return the missing and changed parts of a docker-compose.yml, compared with the wanted one; see :func:`drift`.

    For a file that is not valid YAML, the result is one line for any ``compare``.
    """
    if change.old is None or change.wanted is None or change.old == change.wanted.content:
        return ()
    try:
        found = load_yaml(change.old.decode(), COMPOSE_FILE)
    except (SpecError, UnicodeDecodeError) as error:
        return (error.message if isinstance(error, SpecError) else f"{COMPOSE_FILE} is not UTF-8 text",)
    return compare(load_yaml(change.wanted.content.decode(), COMPOSE_FILE), found)
