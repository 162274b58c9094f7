"""PgBouncer in front of the coordinator: how many clients it accepts, and how many connections it opens for them."""

import math
from dataclasses import dataclass

POOLER_ROLE = "pgbouncer"
"""The role with which PgBouncer queries the secrets of clients on the coordinator; it has no other privileges."""
AUTH_DATABASE = "auth.citus-cluster"
"""PgBouncer's name for the database in which it runs this query; no database of a cluster has a name with a dot."""
CONSOLE_DATABASE = "pgbouncer"
"""PgBouncer reserves this database name for its admin console, so the cluster's database cannot have it."""

DIRECT_PART = 0.2
"""Part of the coordinator's client connections that is left for clients that connect to it directly: migrations, psql,
and other work that needs its own session (judgement)."""
ROLE_PART = 0.75
"""Part of the pool that one role can take (judgement): PgBouncer does not share the pool among roles, so a role that is
always busy would make the others wait."""
PREPARED_STATEMENTS = 100
"""Prepared statements on each connection to the coordinator, where they need memory; PgBouncer's default is 200."""
QUERY_WAIT_S = 60
"""A coordinator restarts in less time; PgBouncer's default is 120 s (judgement)."""
OWN_CLIENTS = 10
"""Clients in addition to those of the database: the admin console, ``status``, the admin API, the health check, and
logins that are about to be refused (judgement)."""
_AUTH_CONNECTIONS = 1
_BASE_MB = 48
_CLIENT_MB = 0.08
"""Measured: 58 MB with 1,000 clients that use TLS and have run prepared statements, including 8 MB that PgBouncer needs
without clients. It forwards larger results in pieces of 4 KB."""


@dataclass(frozen=True)
class Pool:
    """PgBouncer's limits: ``connections`` to the coordinator for all clients, ``role_connections`` for each role.

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
    """Divide the coordinator's client connections: a fifth for direct clients, one for logins, the rest for the pool.

    With fewer than 5 connections, which no plan has, the pool would be empty.
    """
    direct = math.ceil(coordinator_clients * DIRECT_PART)
    connections = max(1, coordinator_clients - direct - _AUTH_CONNECTIONS)
    return Pool(max_clients, connections, math.ceil(connections * ROLE_PART))


def memory_mb(max_clients: int) -> int:
    """Memory limit of PgBouncer's container."""
    return math.ceil(_BASE_MB + max_clients * _CLIENT_MB)
