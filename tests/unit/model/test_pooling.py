"""How PgBouncer's pool follows from the coordinator's connections."""

import pytest

from citus_cluster.model.pooling import memory_mb, pool_of


@pytest.mark.parametrize(
    ("clients", "connections", "role"),
    [(5, 3, 3), (9, 6, 5), (27, 20, 15), (43, 33, 25), (100, 79, 60), (2, 1, 1)],
)
def test_the_pool_leaves_a_fifth_to_direct_clients_and_one_connection_to_logins(
    clients: int, connections: int, role: int
) -> None:
    pool = pool_of(clients, 1000)
    assert (pool.connections, pool.role_connections) == (connections, role)
    assert pool.max_clients == 1000
    if clients >= 5:
        assert clients - pool.connections - 1 >= 0.2 * clients


def test_memory_follows_the_number_of_clients() -> None:
    assert memory_mb(1000) == 128
    assert memory_mb(5000) == 448
