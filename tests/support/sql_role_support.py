"""Shared parts of the tests of ordinary roles on real servers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sql_servers import COORDINATOR, WORKERS, Servers, on

from citus_cluster.model.citus.roles import RoleStatus
from citus_cluster.model.plan.events import Emit, Event, ignore
from citus_cluster.operations.roles import accounts as roles
from citus_cluster.operations.roles import drop as role_drop
from citus_cluster.operations.roles.accounts import RoleResult
from citus_cluster.operations.roles.passwords import CredentialStore

FIRST, SECOND, THIRD = WORKERS
EVERYWHERE = (COORDINATOR, *WORKERS)
ROWS = "SELECT rolename FROM pg_dist_authinfo WHERE rolename <> current_user ORDER BY 1"


def forget_roles(servers: Servers) -> None:
    for node in EVERYWHERE:
        found = servers.sql(
            node.host, "SELECT quote_ident(rolname) FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_'"
        )
        servers.sql(
            node.host,
            "SET citus.enable_ddl_propagation = off",
            "DELETE FROM pg_dist_authinfo WHERE rolename <> current_user",
            *[word.format(name) for (name,) in found for word in ("DROP OWNED BY {} CASCADE", "DROP ROLE {}")],
        )


def create(
    cluster: Servers, credentials: CredentialStore, name: str = "app", emit: Emit = ignore, **options: Any
) -> RoleResult:
    return on(cluster, lambda conn: roles.create(conn, credentials, name, emit, **options))


def drop(
    cluster: Servers, credentials: CredentialStore, name: str = "app", emit: Emit = ignore, **options: Any
) -> tuple[str, ...]:
    return on(cluster, lambda conn: role_drop.drop(conn, credentials, name, emit, **options))


def listed(cluster: Servers, credentials: CredentialStore) -> dict[str, RoleStatus]:
    return {one.name: one for one in on(cluster, lambda conn: roles.list_roles(conn, credentials)).roles}


def password_file(credentials: CredentialStore, name: str = "app") -> Path:
    assert credentials.root
    return credentials.root / f"generated/secrets/roles/{name}_password"


@contextmanager
def session(cluster: Servers, node: str, user: str, password: str) -> Iterator[psycopg.Connection[Any]]:
    info = cluster.info(node)
    with psycopg.connect(
        host=info.host, port=info.port, user=user, password=password, dbname=info.database, autocommit=True
    ) as conn:
        yield conn


def ask(
    cluster: Servers, credentials: CredentialStore, *statements: str, user: str = "app", node: str = COORDINATOR.host
) -> list[Any]:
    """Run statements as the role, with its stored password. Returns the rows of the last one."""
    with session(cluster, node, user, password_file(credentials, user).read_text()) as conn:
        rows: list[Any] = []
        for statement in statements:
            cursor = conn.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        return rows


def works(cluster: Servers, credentials: CredentialStore) -> None:
    """Read and write over all shards, from the coordinator and from a worker."""
    for node in (COORDINATOR.host, FIRST.host):
        assert ask(cluster, credentials, "SELECT count(*), sum(n) FROM items", node=node) == [(100, 5050)]
        assert ask(cluster, credentials, "SELECT count(*) FROM items JOIN kinds USING (id)", node=node) == [(10,)]
        ask(cluster, credentials, "INSERT INTO items VALUES (-1, 1), (-2, 1), (-3, 1), (-4, 1)", node=node)
        ask(cluster, credentials, "UPDATE items SET n = 2 WHERE id < 0", "DELETE FROM items WHERE id < 0", node=node)


class Killed(BaseException):
    pass


def stop_after(steps: int) -> Emit:
    """Return an emitter that accepts this number of events, then raises Killed."""
    left = [steps]

    def emit(event: Event) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return emit
