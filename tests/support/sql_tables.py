"""Tables of the tests on real servers, and the check whether a row was lost."""

from collections.abc import Iterator
from contextlib import contextmanager

from sql_servers import COORDINATOR, Servers, on

from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.decoding import let_citus_decode


def distribute(
    cluster: Servers, *, key: str = "PRIMARY KEY", rows: int = 20000, shards: int = 8, countries: bool = False
) -> None:
    """Create ``orders`` with its rows, ``lines`` with the same shards, and the reference table ``countries``."""
    reference = (
        "CREATE TABLE countries (id int PRIMARY KEY)",
        "SELECT create_reference_table('countries')",
        "INSERT INTO countries SELECT generate_series(1, 50)",
    )
    cluster.sql(
        COORDINATOR.host,
        f"CREATE TABLE orders (id bigint {key}, payload text)",
        f"SELECT create_distributed_table('orders', 'id', shard_count => {shards})",
        f"CREATE TABLE lines (id bigint {key}, payload text)",
        "SELECT create_distributed_table('lines', 'id', colocate_with => 'orders')",
        *(reference if countries else ()),
        f"INSERT INTO orders SELECT id, repeat('x', 100) FROM generate_series(1, {rows}) AS id",
    )


@contextmanager
def moves_held_up(cluster: Servers) -> Iterator[None]:
    """Lock shards of ``orders`` in a transaction, so that no move of them ends before the transaction does."""
    with cluster.session() as client, client.transaction(force_rollback=True):
        client.execute("INSERT INTO orders SELECT generate_series(-500, -1)")
        yield


def checksum(cluster: Servers) -> list[tuple[object, ...]]:
    return cluster.sql(COORDINATOR.host, "SELECT count(*), sum(id), sum(length(payload)) FROM orders")


def may_decode(cluster: Servers) -> bool:
    """Prepare the nodes as ``up`` and the admin API do, so that shards can be split and tables distributed online."""
    return on(cluster, lambda conn: let_citus_decode(conn, ignore))
