"""Where the shards are: one database for each on the PostgreSQL 14 primary, and how to connect to it."""

import contextlib
from dataclasses import dataclass, field

from psycopg.conninfo import make_conninfo
from service_kit.cluster import Address, Cluster, NotConfiguredError

ROLE = "example_sharding"
SECRET = "example_sharding_password"  # noqa: S105  the name of the file
STATEMENT_TIMEOUT_MS = 3000


@dataclass(frozen=True)
class Server:
    """The servers of the pair; the one that accepts writes is used, so that a promotion is followed by itself."""

    addresses: tuple[Address, ...]
    password: str = field(repr=False)
    user: str = ROLE
    maintenance_database: str = "testdb"

    def conninfo(self, database: str, *, statement_timeout_ms: int = STATEMENT_TIMEOUT_MS) -> str:
        """Give what libpq needs. A server that is away is noticed in seconds, also by a session in use."""
        return make_conninfo(
            host=",".join(one.host for one in self.addresses),
            port=",".join(str(one.port) for one in self.addresses),
            target_session_attrs="read-write",
            user=self.user,
            password=self.password,
            dbname=database,
            application_name="consistent-hashing",
            connect_timeout=2,
            keepalives_idle=2,
            keepalives_interval=1,
            keepalives_count=3,
            tcp_user_timeout=3000,
            # A client that dies between two statements holds its locks no longer than this.
            options=f"-c statement_timeout={statement_timeout_ms} -c idle_in_transaction_session_timeout=10000",
        )


def find_server(cluster: Cluster) -> Server:
    """Read the addresses and the password. Raises NotConfiguredError."""
    addresses = [cluster.address("PG14_PRIMARY", "PG14_PRIMARY_PORT")]
    with contextlib.suppress(NotConfiguredError):  # the replica is here only because it may become the primary
        addresses.append(cluster.address("PG14_REPLICA", "PG14_REPLICA_PORT"))
    database = cluster.value("PG14_DATABASE", "PG14_DATABASE", "testdb")
    return Server(tuple(addresses), cluster.secret(SECRET), maintenance_database=database)
