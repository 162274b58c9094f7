"""The components that a cluster can have, by name; every other module names them from here."""

from collections.abc import Mapping
from enum import StrEnum


class ComponentName(StrEnum):
    """What the user switches on with ``--services``, in the order in which it is listed everywhere."""

    CITUS = "citus"
    PG14 = "pg14"
    REDIS = "redis"
    CASSANDRA = "cassandra"
    PGBOUNCER = "pgbouncer"
    EXAMPLE_REPLICATION = "example-replication"
    EXAMPLE_SHARDING = "example-sharding"
    EXAMPLE_USERS = "example-users"
    MONITORING = "monitoring"
    ADMIN_API = "admin-api"

    @property
    def key(self) -> str:
        """Its key in the groups of ``cluster.yaml``: ``ports.admin_api``."""
        return self.value.replace("-", "_")


EXAMPLES = (ComponentName.EXAMPLE_REPLICATION, ComponentName.EXAMPLE_SHARDING, ComponentName.EXAMPLE_USERS)
OPT_IN = (ComponentName.PGBOUNCER, *EXAMPLES, ComponentName.MONITORING)
"""Components that ``all`` does not include."""
ALL = tuple(name for name in ComponentName if name not in OPT_IN)
GROUPS: Mapping[str, tuple[ComponentName, ...]] = {"all": ALL, "examples": EXAMPLES}
"""Names of groups of components in ``--services``."""
