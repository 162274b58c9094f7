"""Names, paths and time limits of the admin API, each declared once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from admin_api.rate_limits import Rate
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
LOG_IN_PATH = "/login"
LOG_OUT_PATH = "/logout"
STATIC_PREFIX = "/static/"
"""Paths that begin like this are files of the pages, which hold nothing of the cluster."""
OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", LOG_IN_PATH})
"""Paths that need no token; all others but those of static files do, even those that do not exist."""
HEALTH_PREFIX = "/health"
"""Paths that begin like this are asked every few seconds, so they are not logged."""
API_PREFIX = "/api/v1"

CHANGES = Rate(burst=100, per_s=5)
"""How often each token may send a request that can change something; a person needs far less."""
FAILED_LOG_INS = Rate(burst=20, per_s=0.2)
"""How often each client address may send a wrong token. Valid tokens are accepted nevertheless."""

MAX_CONNECTIONS = 4
"""The number of connections to the coordinator, in addition to the reconciler's own."""
MAX_CHANGES = 2
"""The number of these connections that requests which change the cluster can use, possibly for minutes."""
MAX_LASTING = 1
"""The number of these that changes can use which may take minutes, so that short ones go on meanwhile."""
MAX_REQUESTS = 100
"""The number of requests that can wait for the coordinator; others get an error that asks them to try again later."""


@dataclass(frozen=True)
class Settings:
    """Settings that a deployment or a test may change; times in seconds."""

    config_dir: Path = Path("/etc/citus-cluster")
    password_file: Path = Path("/run/secrets/superuser_password")
    journal_folder: Path = Path("/var/lib/citus-cluster/journal")
    """The only folder of the host to which the container may write."""
    data_folder: Path = Path("/var/lib/citus-cluster/data")
    """The folder of the volume that keeps the record of operations."""
    reconciler: bool = True

    changes: Rate = CHANGES
    failed_log_ins: Rate = FAILED_LOG_INS

    connect_timeout_s: float = 3
    """How long a request waits for a connection to the coordinator before it gets an error."""
    health_timeout_s: float = 2
    health_life_s: float = 1
    """How long the result of a successful check of the coordinator is valid for all requests."""
    refusal_life_s: float = 0.2
    """The same for a failed check: shorter, so that the return of the coordinator is detected at once."""
    body_timeout_s: float = 10
    """How long a client may take to send the body of a request."""
    request_timeout_s: float = 15
    """The maximum time of a request that only reads; queries on the server time out a little earlier."""
    plan_timeout_s: float = 120
    """The start of a rebalance plans in the foreground, which takes long with many shards."""
    register_timeout_s: float = 10
    """How long POST /nodes waits for a worker that does not answer yet."""
    change_timeout_s: float = 60
    """The maximum time of a request that changes nodes, which includes all waiting."""
    reconcile_timeout_s: float = 15
    lock_timeout_s: float = 5
    busy_interval_s: float = 1
    """The time between two checks while a desired worker is missing, or a node does not serve queries."""
    idle_interval_s: float = 5
    disk_interval_s: float = 60
    """The time between two checks of the disk usage of the nodes."""
    data_interval_s: float = 60
    """The time between two comparisons of the existing shards with the placements in the catalog."""

    jwks_timeout_s: float = 3
    """How long the issuer of JWTs may take to return its public keys."""
    jwks_life_s: float = 300
    """How long these keys are valid before they are read again, in the background."""
    jwks_stale_s: float = 3600
    """How long they stay valid while the issuer does not answer."""
    jwks_interval_s: float = 10
    """The time between two queries, also for unknown keys, whose ids any client can invent."""

    sample_interval_s: float = 10
    """The time between two readings of the figures for monitoring, while somebody asks for them."""
    sample_pause_s: float = 120
    """The figures are not read any more once nobody has asked for this long."""
    sample_wait_s: float = 2.5
    """How long a request waits for new figures if nobody has asked for a while; otherwise it does not wait."""
    shards_interval_s: float = 60
    """The time between two readings of the sizes of all shards."""

    companion_timeout_s: float = 3
    """How long a service beside Citus may take to return its status."""
    companion_interval_s: float = 5
    """How long such a status is valid; no request causes more frequent queries."""
    companion_start_s: float = 120
    """How long a service that has never been healthy counts as starting; after that, it is down or degraded."""

    def limit_s(self, *, plans_long: bool) -> float:
        """Return the maximum time of one piece of work of a short change."""
        return self.plan_timeout_s if plans_long else self.change_timeout_s

    def start_s(self, companion: ComponentName) -> float:
        return self.companion_start_s * COMPONENTS[companion].start_factor

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings. Raises UsageError for a value that is not valid."""
        switch = environ.get(RECONCILER_VARIABLE, "on").strip().lower()
        if switch not in {"on", "off"}:
            raise UsageError(f"{RECONCILER_VARIABLE} is {switch!r}.", hint=f"Set {RECONCILER_VARIABLE} to on or off.")
        return cls(
            config_dir=Path(environ.get(CONFIG_DIR_VARIABLE) or cls.config_dir),
            password_file=Path(environ.get(PASSWORD_FILE_VARIABLE) or cls.password_file),
            reconciler=switch == "on",
        )
