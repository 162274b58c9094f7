"""The components that a cluster can have, by name; every other module names them from here."""

from enum import StrEnum


class ComponentName(StrEnum):
    """What the user switches on with ``--services``, in the order in which it is listed everywhere."""

    CITUS = "citus"
    PG14 = "pg14"
    REDIS = "redis"
    CASSANDRA = "cassandra"
    PGBOUNCER = "pgbouncer"
    ADMIN_API = "admin-api"


OPT_IN = frozenset({ComponentName.PGBOUNCER})
"""Components that ``all`` does not include."""
ALL = tuple(name for name in ComponentName if name not in OPT_IN)
