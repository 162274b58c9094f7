"""The services that a cluster can have; every other module names them from here."""

from enum import StrEnum


class Service(StrEnum):
    """A kind of service that the user may want, in the order in which they are listed everywhere."""

    CITUS = "citus"
    PG14 = "pg14"
    REDIS = "redis"
    CASSANDRA = "cassandra"
    ADMIN_API = "admin-api"


COMPANIONS = (Service.PG14, Service.REDIS, Service.CASSANDRA)
"""The services beside Citus."""
