"""Names, paths and times of the admin API, each declared once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from citus_cluster.errors import UsageError
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS

CONFIG_DIR_VARIABLE = "CITUS_CLUSTER_API_CONFIG_DIR"
PASSWORD_FILE_VARIABLE = "CITUS_CLUSTER_API_PASSWORD_FILE"  # noqa: S105 - the name of a variable
RECONCILER_VARIABLE = "CITUS_CLUSTER_RECONCILER"

HTTP_HOST = "0.0.0.0"  # noqa: S104 - inside the container; Compose decides what is published
HTTP_PORT = 8000
SHUTDOWN_TIMEOUT_S = 3

APPLICATION_NAME = "citus-cluster admin-api"
OPEN_PATHS = frozenset({"/health"})
"""Paths that need no token; every other one does, also those that do not exist."""
API_PREFIX = "/api/v1"

MAX_CONNECTIONS = 4
"""To the coordinator, beside the reconciler's own."""
MAX_CHANGES = 2
"""So many connections at most serve requests that change the cluster, which may take minutes."""
MAX_REQUESTS = 100
"""So many requests at most wait for the coordinator or its answer; the next one is told to come back later."""


@dataclass(frozen=True)
class Settings:
    """What a deployment or a test may set; times in seconds."""

    config_dir: Path = Path("/etc/citus-cluster")
    password_file: Path = Path("/run/secrets/superuser_password")
    journal_folder: Path = Path("/var/lib/citus-cluster/journal")
    """The only folder of the host that the container may write."""
    reconciler: bool = True

    connect_timeout_s: float = 3
    """How long a request waits for the coordinator before it is told that there is none."""
    health_timeout_s: float = 2
    health_life_s: float = 1
    """For so long everybody gets the same answer to whether the coordinator gives a sign of life."""
    refusal_life_s: float = 0.2
    """The same while it gives none: shorter, so that its return is seen at once."""
    body_timeout_s: float = 10
    """How long a client may take to send the body of a request."""
    request_timeout_s: float = 15
    """The longest that a request which only reads may take; the server gives up a little earlier."""
    plan_timeout_s: float = 120
    """Starting a rebalance plans in the foreground: long with many shards."""
    register_timeout_s: float = 10
    """How long POST /nodes waits for a worker that does not answer yet."""
    change_timeout_s: float = 60
    """The longest that a request which changes nodes may take, with all its waiting."""
    reconcile_timeout_s: float = 15
    lock_timeout_s: float = 5
    busy_interval_s: float = 1
    """Between two looks while a desired worker is missing, or a node does not serve queries."""
    idle_interval_s: float = 5
    disk_interval_s: float = 60
    """Between two looks at how full the disks of the nodes are."""
    data_interval_s: float = 60
    """Between two comparisons of the shards that exist with those that the catalog places."""

    companion_timeout_s: float = 3
    """How long a service beside Citus may take to say how it is."""
    companion_interval_s: float = 5
    """An answer of theirs is good for so long; nobody makes them be asked more often."""
    companion_start_s: float = 120
    """Until then, one that has not been well yet is starting; from then on it is down, or degraded."""

    def password_file_of(self, companion: ComponentName) -> Path | None:
        """Secrets lie side by side, under the names that the Compose file gives them; None without a password."""
        secret = COMPONENTS[companion].password
        return self.password_file.with_name(secret.name) if secret else None

    def start_s(self, companion: ComponentName) -> float:
        return self.companion_start_s * COMPONENTS[companion].start_factor

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings; raise UsageError for a value that is not understood."""
        switch = environ.get(RECONCILER_VARIABLE, "on").strip().lower()
        if switch not in {"on", "off"}:
            raise UsageError(f"{RECONCILER_VARIABLE} is {switch!r}.", hint=f"Set {RECONCILER_VARIABLE} to on or off.")
        return cls(
            config_dir=Path(environ.get(CONFIG_DIR_VARIABLE) or cls.config_dir),
            password_file=Path(environ.get(PASSWORD_FILE_VARIABLE) or cls.password_file),
            reconciler=switch == "on",
        )
