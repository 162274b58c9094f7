"""PgBouncer in front of the coordinator: how many clients it takes, and on how many connections it serves them."""

import math
from dataclasses import dataclass

POOLER_ROLE = "pgbouncer"
"""The role as which PgBouncer asks the coordinator for the secrets of clients; it may do nothing else."""
AUTH_DATABASE = "auth.citus-cluster"
"""How PgBouncer names the database in which it asks; no database of a cluster has a name with a dot."""
CONSOLE_DATABASE = "pgbouncer"
"""PgBouncer's admin console takes the place of a database of this name, so that the cluster's cannot have it."""

DIRECT_PART = 0.2
"""Part of the coordinator's client connections that is left to clients which connect to it directly: migrations, psql,
whatever needs a session of its own (judgement)."""
ROLE_PART = 0.75
"""Part of the pool that one role can take (judgement): PgBouncer shares nothing out among roles, and one that is always
busy would keep the others waiting."""
PREPARED_STATEMENTS = 100
"""Kept on each connection to the coordinator, where they cost memory; PgBouncer's own default is 200."""
QUERY_WAIT_S = 60
"""A coordinator restarts in less; PgBouncer's own default is 120 s (judgement)."""
OWN_CLIENTS = 10
"""Clients beyond those of the database: the admin console, ``status``, the admin API, the health check, and logins that
are refused in a moment (judgement)."""
_AUTH_CONNECTIONS = 1
_BASE_MB = 48
_CLIENT_MB = 0.08
"""Measured: 58 MB for 1,000 clients that use TLS and each have run prepared statements, of which 8 MB are without any
client. Larger results are sent on in pieces of 4 KB."""


@dataclass(frozen=True)
class Pool:
    """What PgBouncer serves: ``connections`` of the coordinator for all clients, ``role_connections`` for each role.

    ``max_clients`` are those of the database; ``all_clients`` includes our own.
    """

    max_clients: int
    connections: int
    role_connections: int
    prepared_statements: int = PREPARED_STATEMENTS
    query_wait_s: int = QUERY_WAIT_S

    @property
    def all_clients(self) -> int:
        return self.max_clients + OWN_CLIENTS


def pool_of(coordinator_clients: int, max_clients: int) -> Pool:
    """Share the coordinator's client connections: a fifth for direct ones, one for logins, the rest for the pool.

    With fewer than 5 of them, which no plan has, the pool would be empty.
    """
    direct = math.ceil(coordinator_clients * DIRECT_PART)
    connections = max(1, coordinator_clients - direct - _AUTH_CONNECTIONS)
    return Pool(max_clients, connections, math.ceil(connections * ROLE_PART))


def memory_mb(max_clients: int) -> int:
    """Memory limit of PgBouncer's container."""
    return math.ceil(_BASE_MB + max_clients * _CLIENT_MB)
