"""An existing generated directory, loaded: what every operation after the set-up starts from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from citus_cluster.errors import UsageError
from citus_cluster.model.images import known_pg_major
from citus_cluster.model.spec import ClusterSpec, parse_spec
from citus_cluster.model.topology import Topology, resolve
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.render.bundle import SPEC_FILE
from citus_cluster.runtime import secrets
from citus_cluster.runtime.files import Manifest, read_file, read_manifest

if TYPE_CHECKING:
    from citus_cluster.runtime.postgres import ConnectionInfo


@dataclass(frozen=True)
class Directory:
    """The directory of one cluster on this host."""

    root: Path
    spec: ClusterSpec
    topology: Topology
    manifest: Manifest
    password: str = field(repr=False)

    def coordinator(self) -> "ConnectionInfo":
        """Give how this machine reaches the coordinator: by its published port."""
        # Imported here: the driver costs 50 ms, and a set-up needs none.
        from citus_cluster.runtime.postgres import ConnectionInfo

        node = self.topology.coordinator
        if node is None:
            raise UsageError(
                "This directory has no coordinator: its workers belong to one on another server.",
                hint="Run the command in the coordinator's directory, or name the coordinator with --dsn.",
            )
        return ConnectionInfo(
            host=self.topology.connect_host,
            port=node.host_port,
            user=self.topology.user,
            database=self.topology.database,
            password=self.password,
        )


def read_spec(path: Path, source: str) -> object:
    """Read a specification as plain data. Raises UsageError, SpecError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{path} cannot be read: {reason}.", hint="Check the path and its permissions.") from error
    return load_yaml(text, source)


def load(root: Path) -> Directory:
    """Load a directory that a set-up wrote. Raises UsageError where there is none, SpecError."""
    manifest = read_manifest(root)
    password = secrets.saved(root, secrets.SUPERUSER_PASSWORD)
    if manifest is None or password is None or read_file(root, SPEC_FILE) is None:
        missing = "generated/" if manifest is None else secrets.SUPERUSER_PASSWORD if password is None else SPEC_FILE
        raise UsageError(
            f"There is no complete cluster in {root}: {missing} is missing.",
            hint="Run python setup_citus_cluster.py --workers=3 here first, or name another directory with --dir.",
        )
    spec = parse_spec(read_spec(root / SPEC_FILE, SPEC_FILE))
    pg_major = spec.images.pg_major or known_pg_major(spec.images.citus) or manifest.identity.get("pg_major")
    if spec.resources.memory_mb is None or spec.resources.cpus is None or pg_major is None:
        raise UsageError(
            f"{SPEC_FILE} was changed, and its values are not resolved yet.",
            hint="Run python setup_citus_cluster.py again in this directory.",
        )
    topology, _ = resolve(spec, memory_mb=spec.resources.memory_mb, cpus=spec.resources.cpus, pg_major=int(pg_major))
    return Directory(root, spec, topology, manifest, password)
