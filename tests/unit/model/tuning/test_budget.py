"""How memory is shared, and what one server carries."""

from collections.abc import Mapping
from typing import Any

import pytest
from tuning_support import wish

from citus_cluster.model.component_name import ALL
from citus_cluster.model.tuning import budget
from citus_cluster.model.tuning.budget import Load, Server


def share(total_mb: int, **given: Any) -> Mapping[Server, float]:
    return budget.share(total_mb, wish(total_mb, **given).parts)


def test_fixed_limits_come_first_and_the_rest_goes_by_weight() -> None:
    assert {part.component: part.total_fixed_mb for part in wish(15_900, services=ALL, cassandra_nodes=2).parts} == {
        "citus": 0,
        "pg14": 0,
        "redis": 128,
        "cassandra": 2560,
        "admin-api": 192,
    }
    shares = share(15_900, services=ALL)
    assert shares == pytest.approx({Server.COORDINATOR: 2542, Server.WORKER: 2542, Server.PLAIN: 1271})


@pytest.mark.parametrize("total_mb", [3_900, 7_840, 64_000])
def test_the_shares_add_up_to_the_usable_part(total_mb: int) -> None:
    servers = share(total_mb, services=ALL, workers=5, cassandra_nodes=2)
    used = servers[Server.COORDINATOR] + 5 * servers[Server.WORKER] + 2 * servers[Server.PLAIN]
    assert used + 128 + 2 * 1280 + 192 == pytest.approx(0.9 * total_mb)


def test_only_wanted_services_get_memory() -> None:
    assert share(8_000, services=["pg14"]) == pytest.approx({Server.PLAIN: 3_600})


def test_a_host_without_coordinator_gives_its_memory_to_the_workers() -> None:
    assert share(8_000, services=["citus"], workers=2, coordinator=False) == pytest.approx({Server.WORKER: 3_600})


def test_a_server_gets_nothing_where_fixed_limits_take_everything() -> None:
    assert set(share(1_000, services=ALL, workers=1).values()) == {0}


@pytest.mark.parametrize(
    ("server", "clients", "workers", "connections", "queries"),
    [
        (Server.COORDINATOR, 100, 3, 139, 100),
        (Server.WORKER, 100, 3, 160, 160),
        (Server.WORKER, 43, 3, 90, 90),  # 1.2 * 75 is exactly 90: rounding must not make it 100
        (Server.WORKER, 9, 3, 50, 50),
        (Server.COORDINATOR, 100, 0, 160, 150),
        (Server.PLAIN, 62, 3, 76, 62),
    ],
)
def test_connections_of_each_server(server: Server, clients: int, workers: int, connections: int, queries: int) -> None:
    load = budget.load_of(server, clients=clients, workers=workers, cpus=2)
    assert (load.max_connections, load.queries) == (connections, queries)
    assert load.max_prepared_transactions == 2 * connections


def test_processes_without_and_with_spare_ones() -> None:
    load = budget.load_of(Server.WORKER, clients=10, workers=1, cpus=2)
    assert (load.processes, load.max_worker_processes) == (2 + 8 + 1 + 1 + 1 + 4, 20)
    assert budget.load_of(Server.WORKER, clients=10, workers=1, cpus=64).max_worker_processes == 82


def test_work_mem_is_what_the_budget_leaves_where_that_is_less_than_pgtunes() -> None:
    load = Load(Server.COORDINATOR, clients=9, max_connections=41, queries=9, processes=17)
    committed = 207.375 + 41 * 8 + 3 * 64 + 270 * 256 * 3 * 41 / 2**20
    left = (0.9 * 829.5 - committed) / 9
    assert left < (829.5 - 207.375) / (26 * 3)
    assert budget.work_mem_mb(load, 829.5, 207.375) == pytest.approx(left)


def test_work_mem_is_pgtunes_where_memory_is_plenty() -> None:
    load = Load(Server.WORKER, clients=100, max_connections=160, queries=160, processes=17)
    assert budget.work_mem_mb(load, 11_200, 2_800) == pytest.approx(8_400 / (177 * 3))


def test_the_least_memory_is_enough_and_one_mb_less_is_not() -> None:
    for server in Server:
        load = budget.load_of(server, clients=5, workers=3, cpus=2)
        least = budget.least_memory_mb(load)
        buffers = budget.LEAST_SHARED_BUFFERS_MB
        assert budget.work_mem_mb(load, least, buffers) >= 1 > budget.work_mem_mb(load, least - 1, buffers)


@pytest.mark.parametrize(
    ("limit_4mb", "limit_1mb", "expected"),
    [(300, 300, 100), (60, 90, 60), (20, 90, 20), (19, 90, 90), (3, 12, 12), (0, 5, 5), (0, 4, 0), (0, 0, 0)],
)
def test_most_clients_prefers_4_mb_then_1_mb_and_refuses_fewer_than_five(
    limit_4mb: int, limit_1mb: int, expected: int
) -> None:
    def fits(clients: int, work_mem_mb: float) -> bool:
        return clients <= (limit_4mb if work_mem_mb == 4 else limit_1mb)

    assert budget.most_clients(fits, 100) == expected


@pytest.mark.parametrize("threshold", [1, 2, 7, 100, 12_345])
def test_smallest_finds_the_threshold(threshold: int) -> None:
    assert budget.smallest(lambda number: number >= threshold, 0) == threshold
    assert budget.smallest(lambda number: number >= threshold, threshold + 5) == threshold + 5
