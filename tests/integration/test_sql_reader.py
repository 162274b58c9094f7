"""The role with which the admin API reads: it sees what the superuser sees, in every view, and may do nothing else."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sql_role_support import forget_roles
from sql_servers import COORDINATOR, WORKERS, Servers, on, register

from citus_cluster.errors import ReaderRefusedError, RoleError
from citus_cluster.model.citus.reader import READER_ROLE
from citus_cluster.model.documents import as_data
from citus_cluster.model.parameters import read_parameters
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.coordinator import connecting
from citus_cluster.operations.nodes import views as nodes
from citus_cluster.operations.registry import VIEWS
from citus_cluster.operations.view import AnyView
from citus_cluster.runtime.citus import probe
from citus_cluster.runtime.citus.reader import prepare_reader
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect

pytestmark = pytest.mark.cluster

FIRST, SECOND, _ = WORKERS
PASSWORD = "it's a p\\assword"
READ_BY_ALL = [one for one in VIEWS if not one.superuser]


@pytest.fixture
def reader(cluster: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectionInfo]:
    """The role's login; what it asks of a node goes to the port that the node publishes."""
    register(cluster, FIRST, SECOND)
    on(cluster, lambda conn: prepare_reader(conn, PASSWORD))
    superuser = cluster.info(COORDINATOR.host)

    async def published(info: ConnectionInfo, **more: Any) -> Connection:
        at = cluster.info(info.host)
        return await connect(ConnectionInfo(at.host, at.port, info.user, info.database, info.password), **more)

    monkeypatch.setattr(probe, "connect", published)
    yield ConnectionInfo(superuser.host, superuser.port, READER_ROLE, superuser.database, PASSWORD)
    drop = "DROP SCHEMA IF EXISTS private CASCADE", "DROP TABLE IF EXISTS orders, countries"
    settings = "ALTER SYSTEM RESET citus.stat_tenants_track", "SELECT pg_reload_conf()"
    cluster.sql(COORDINATOR.host, "SET client_min_messages TO error", *drop, *settings)
    cluster.sql(COORDINATOR.host, f"DROP OWNED BY {READER_ROLE}", f"DROP ROLE {READER_ROLE}")
    forget_roles(cluster)


def read(info: ConnectionInfo, view: AnyView) -> Any:
    cluster = Cluster(connecting(info), info, coordinator=COORDINATOR)
    return as_data(asyncio.run(view.read(cluster, read_parameters(view.parameters, {}))))


def different(cluster: Servers, reader: ConnectionInfo) -> dict[str, object]:
    """Return the views that show the role something else than the superuser, and those that are refused to it."""
    superuser = cluster.info(COORDINATOR.host)
    found: dict[str, object] = {}
    for view in READ_BY_ALL:
        if view.name == "activity-statements":  # It counts the very statements of each reading.
            continue
        try:
            expected, shown = read(superuser, view), read(reader, view)
        except ReaderRefusedError:
            found[view.name] = "refused"
        else:
            if shown != expected:
                found[view.name] = str((expected, shown))
    return found


def test_every_view_shows_it_what_the_superuser_sees(cluster: Servers, reader: ConnectionInfo) -> None:
    cluster.sql(
        COORDINATOR.host,
        "ALTER SYSTEM SET citus.stat_tenants_track = 'all'",
        "SELECT pg_reload_conf()",
        "CREATE TABLE orders (id bigint PRIMARY KEY)",
        "SELECT create_distributed_table('orders', 'id', shard_count => 4)",
        "INSERT INTO orders SELECT generate_series(1, 1000)",
        "CREATE TABLE countries (id int PRIMARY KEY)",
        "SELECT create_reference_table('countries')",
        "ANALYZE",
    )
    assert different(cluster, reader) == {}
    assert len(READ_BY_ALL) > 10
    # Shards in a schema that is closed to it: where it is refused an answer, the API asks as the superuser.
    cluster.sql(
        COORDINATOR.host,
        "CREATE SCHEMA private",
        "REVOKE ALL ON SCHEMA private FROM PUBLIC",
        "CREATE TABLE private.letters (id bigint PRIMARY KEY)",
        "SELECT create_distributed_table('private.letters', 'id', shard_count => 2)",
    )
    assert set(different(cluster, reader).values()) <= {"refused"}


def refused(reader: ConnectionInfo, *statements: str) -> bool:
    with psycopg.connect(reader.dsn(masked=False), autocommit=True) as session:
        try:
            for statement in statements:
                session.execute(statement.encode())
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
            return True
    return False


def test_it_may_not_write_nor_read_rows_of_users(cluster: Servers, reader: ConnectionInfo) -> None:
    cluster.sql(COORDINATOR.host, "CREATE TABLE orders (id bigint PRIMARY KEY)")
    cluster.sql(COORDINATOR.host, "SELECT create_distributed_table('orders', 'id', shard_count => 4)")
    writes = "SET default_transaction_read_only = off"
    assert refused(reader, "CREATE TEMP TABLE t (id int)")
    for statements in (
        ("SELECT * FROM orders",),
        ("SELECT * FROM pg_authid",),
        ("SELECT * FROM pg_dist_authinfo",),
        ("SELECT pg_read_file('/etc/passwd')",),
        (writes, "INSERT INTO orders VALUES (1)"),
        (writes, "CREATE TABLE public.mine (id int)"),
        (writes, "DELETE FROM pg_dist_node"),
        (writes, "DELETE FROM citus_cluster.worker"),
        (writes, "SELECT citus_remove_node('citus-worker1', 5432)"),
        (writes, "SELECT citus_rebalance_start()"),
        (writes, "ALTER SYSTEM SET work_mem = '1GB'"),
        (writes, "CREATE ROLE other"),
        (writes, "COPY (SELECT 1) TO PROGRAM 'true'"),
    ):
        assert refused(reader, *statements), statements


def test_a_node_that_does_not_answer_it_is_not_taken_for_a_silent_one(cluster: Servers, reader: ConnectionInfo) -> None:
    """The superuser may get an answer, for example while clients have all other connections."""
    with cluster.paused(SECOND.host), pytest.raises(ReaderRefusedError):
        read(reader, nodes.LIST)


def test_a_role_that_somebody_else_made_is_left_alone(cluster: Servers, reader: ConnectionInfo) -> None:
    cluster.sql(COORDINATOR.host, f"COMMENT ON ROLE {READER_ROLE} IS NULL")
    with pytest.raises(RoleError, match="did not create it"):
        on(cluster, lambda conn: prepare_reader(conn, "another"))
