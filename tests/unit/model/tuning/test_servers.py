"""From a machine and a wish to settings: the reference figures, the edges, and what is refused."""

import re
import time
from typing import Any

import pytest
from tuning_support import SMALL, tuned

from admin_api.settings import MAX_CONNECTIONS
from citus_cluster.errors import DoesNotFitError
from citus_cluster.model import component_name
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.tuning import parameter_names
from citus_cluster.model.tuning.budget import OWN_SESSIONS, PAIR_SESSIONS, SUPERUSER_RESERVED, Server, load_of
from citus_cluster.model.tuning.parameters import check_user_settings, needs_restart
from citus_cluster.model.tuning.servers import (
    Group,
    NodeTuning,
    Storage,
    Workload,
    with_user_settings,
)
from citus_cluster.operations.status.overview import AT_ONCE

ALL = frozenset(component_name.ALL)
CITUS = frozenset({ComponentName.CITUS})


def values(node: NodeTuning | None) -> dict[str, str]:
    assert node is not None
    return {setting.name: setting.value for setting in node.settings}


def size_mb(value: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(kB|MB|GB)", value).groups()  # type: ignore[union-attr]
    return int(number) * {"kB": 1 / 1024, "MB": 1, "GB": 1024}[unit]


@pytest.mark.parametrize(
    ("total_mb", "services", "clients", "limit_mb", "connections", "work_mem_mb", "pair"),
    [
        (3_900, SMALL, 9, 830, ("48", "50"), (1.2, 2.7), None),
        (7_840, ALL, 27, 1_091, ("66", "80"), (1.2, 2.3), (546, "37", 1.0)),
        (7_840, SMALL, 43, 1_716, ("82", "90"), (7.1, 4.0), None),
        (15_900, ALL, 84, 2_542, ("123", "140"), (5.5, 4.0), (1_271, "76", 4.0)),
        (24_100, ALL, 100, 4_018, ("139", "160"), (8.6, 5.7), (2_009, "114", 4.3)),
        (64_000, ALL, 100, 11_200, ("139", "160"), (23.9, 15.8), (5_600, "114", 12.0)),
    ],
)
def test_reference_figures_of_three_workers(
    total_mb: int,
    services: frozenset[ComponentName],
    clients: int,
    limit_mb: int,
    connections: tuple[str, str],
    work_mem_mb: tuple[float, float],
    pair: tuple[int, str, float] | None,
) -> None:
    result = tuned(total_mb, services=services)
    assert result.fits
    assert not result.warnings
    assert result.connections == clients
    nodes = (result.coordinator, result.worker)
    assert [node and node.memory_mb for node in nodes] == [limit_mb, limit_mb]
    assert tuple(values(node)["max_connections"] for node in nodes) == connections
    assert [round(size_mb(values(node)["work_mem"]), 1) for node in nodes] == pytest.approx(work_mem_mb, abs=0.05)
    if pair is None:
        assert result.plain is None
    else:
        assert result.plain is not None
        assert (result.plain.memory_mb, values(result.plain)["max_connections"]) == pair[:2]
        assert size_mb(values(result.plain)["work_mem"]) == pytest.approx(pair[2], abs=0.05)


def test_every_service_on_4_gb_does_not_fit_and_two_services_do() -> None:
    result = tuned(3_900, services=ALL)
    assert not result.fits
    (warning,) = result.warnings
    assert "--services=citus,admin-api" in warning
    needed = int(re.search(r"need ([\d,]+) MB", warning)[1].replace(",", ""))  # type: ignore[index]
    assert tuned(needed, services=ALL).fits
    assert not tuned(needed - 1, services=ALL).fits


def test_where_it_does_not_fit_the_smallest_sound_settings_come_with_the_memory_they_need() -> None:
    result = tuned(3_900, services=ALL)
    assert result.connections == 5
    for node in (result.coordinator, result.worker, result.plain):
        assert values(node)["shared_buffers"] == "128MB"
        assert values(node)["work_mem"] == "1MB"
    assert result.coordinator is not None
    assert result.coordinator.memory_mb == 699  # (128 + 5 + 37 * 8 + 3 * 64 + locks) / 0.9


def test_given_memory_that_is_too_small_is_refused_with_what_would_fit() -> None:
    with pytest.raises(DoesNotFitError) as refused:
        tuned(3_900, services=ALL, memory_given=True)
    assert "3,900 MB were given" in refused.value.message
    assert refused.value.hint is not None
    needed = int(re.search(r"--memory=(\d+)", refused.value.hint)[1])  # type: ignore[index]
    assert tuned(needed, services=ALL, memory_given=True).fits
    assert "--services=citus,admin-api" in refused.value.hint


def test_fewer_workers_are_offered_where_they_fit() -> None:
    with pytest.raises(DoesNotFitError) as refused:
        tuned(3_900, services=SMALL, workers=8, memory_given=True)
    assert refused.value.hint is not None
    workers = int(re.search(r"--workers=(\d+)", refused.value.hint)[1])  # type: ignore[index]
    assert tuned(3_900, workers=workers, memory_given=True).fits
    with pytest.raises(DoesNotFitError):
        tuned(3_900, workers=workers + 1, memory_given=True)


@pytest.mark.parametrize("memory_given", [True, False])
def test_connections_that_cannot_fit_are_refused_with_the_most_that_fit(memory_given: bool) -> None:
    with pytest.raises(DoesNotFitError) as refused:
        tuned(7_840, connections=500, memory_given=memory_given)
    assert refused.value.hint is not None
    most = int(re.search(r"--connections=(\d+)", refused.value.hint)[1])  # type: ignore[index]
    assert tuned(7_840, connections=most).connections == most
    with pytest.raises(DoesNotFitError):
        tuned(7_840, connections=most + 1)


def test_given_connections_are_taken_above_and_below_the_workloads() -> None:
    assert tuned(64_000, connections=250).connections == 250
    assert tuned(64_000, connections=7).connections == 7
    assert values(tuned(64_000, connections=7).coordinator)["citus.max_client_connections"] == str(7 + OWN_SESSIONS)


@pytest.mark.parametrize("workers", [0, 1, 3, 40])
@pytest.mark.parametrize("connections", [5, 27, 100, 400])
def test_clients_find_their_number_beside_the_tools_own_sessions_and_the_reverse(
    workers: int, connections: int
) -> None:
    """Citus counts superusers' sessions among the clients, and lets superusers in all the same."""
    own = values(tuned(1_000_000, workers=workers, connections=connections).coordinator)
    ordinary = int(own["citus.max_client_connections"])
    assert ordinary == connections + OWN_SESSIONS
    of_other_nodes = 4 * workers if workers else int(own["citus.max_shared_pool_size"])
    assert int(own["max_connections"]) >= ordinary + OWN_SESSIONS + SUPERUSER_RESERVED + of_other_nodes


def test_clients_of_the_pair_find_their_number_beside_the_tools_own_sessions_and_the_reverse() -> None:
    result = tuned(7_840, services=ALL)
    pair = {name: int(value) for name, value in values(result.plain).items() if value.isdigit()}
    assert pair["max_connections"] - pair["superuser_reserved_connections"] >= result.plain_connections + PAIR_SESSIONS
    assert pair["superuser_reserved_connections"] >= PAIR_SESSIONS
    assert tuned(7_840).plain_connections == 0


def test_the_admin_apis_sessions_are_counted() -> None:
    the_reconciler, the_sampler, status, a_waiting_command, health_checks = 1, 1, AT_ONCE, 1, 2
    assert MAX_CONNECTIONS + the_reconciler + the_sampler + status + a_waiting_command + health_checks <= OWN_SESSIONS


@pytest.mark.parametrize(
    ("workload", "clients"), [(Workload.WEB, 200), (Workload.OLTP, 300), (Workload.MIXED, 100), (Workload.OLAP, 40)]
)
def test_clients_by_workload_where_memory_is_plenty(workload: Workload, clients: int) -> None:
    assert tuned(512_000, workload=workload).connections == clients


def test_a_thousand_workers_are_tuned_at_once_even_where_they_do_not_fit() -> None:
    started = time.perf_counter()
    result = tuned(24_000, workers=1000)
    assert time.perf_counter() - started < 0.5
    assert not result.fits
    assert values(result.coordinator)["max_connections"] == str(5 + 2 * OWN_SESSIONS + 4000 + 3)


def test_a_coordinator_without_workers_holds_the_shards() -> None:
    result = tuned(7_840, workers=0)
    assert result.worker is None
    coordinator = values(result.coordinator)
    clients, pool = int(coordinator["citus.max_client_connections"]), int(coordinator["citus.max_shared_pool_size"])
    assert pool >= 1
    assert clients + pool < int(coordinator["max_connections"])
    assert coordinator["citus.local_shared_pool_size"] == coordinator["citus.max_shared_pool_size"]


def test_a_host_with_workers_only_is_bound_by_their_memory_alone() -> None:
    workers_only = tuned(7_840, services=CITUS, coordinator=False, connections=43)
    assert workers_only.coordinator is None
    # The coordinator's host, with as many clients, will open what these accept.
    together = tuned(64_000, services=CITUS, connections=43)
    assert values(workers_only.worker)["max_connections"] == values(together.worker)["max_connections"]
    assert workers_only.worker is not None
    assert workers_only.worker.memory_mb == 7_840 * 0.9 / 3


def test_a_set_without_citus() -> None:
    result = tuned(7_840, services=frozenset({ComponentName.PG14, ComponentName.REDIS}), workers=0)
    assert (result.coordinator, result.worker) == (None, None)
    assert result.connections == 100
    assert values(result.plain)["max_connections"] == "114"
    assert tuned(7_840, services=frozenset({ComponentName.REDIS})).connections == 0


def test_fixed_limits_alone_can_be_too_much() -> None:
    with pytest.raises(DoesNotFitError, match=r"The services redis, cassandra need 1,565 MB"):
        tuned(300, services=frozenset({ComponentName.REDIS, ComponentName.CASSANDRA}), memory_given=True)


@pytest.mark.parametrize("workers", [0, 1, 3, 40])
@pytest.mark.parametrize("total_mb", [2_500, 7_840, 64_000, 1_000_000])
@pytest.mark.parametrize("workload", list(Workload))
@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_what_must_always_hold(workers: int, total_mb: int, workload: Workload, cpus: int) -> None:
    result = tuned(total_mb, workers=workers, workload=workload, cpus=cpus)
    nodes = [node for node in (result.coordinator, result.worker) if node]
    for node in nodes:
        own = {name: int(value) for name, value in values(node).items() if value.isdigit()}
        assert own["max_prepared_transactions"] == 2 * own["max_connections"]
        assert own["max_worker_processes"] > own["max_logical_replication_workers"] + own["max_parallel_workers"]
        assert own["max_wal_senders"] >= own["max_replication_slots"] >= 20
        assert own["max_parallel_workers_per_gather"] <= own["max_parallel_workers"]
        assert own["citus.max_shared_pool_size"] > 0
        # Where the coordinator keeps the shards, clients and the pool share its connections.
        assert (
            workers or own["citus.max_client_connections"] + own["citus.max_shared_pool_size"] < own["max_connections"]
        )
        assert own["citus.max_client_connections"] <= own["max_connections"] - 10
        assert node.shm_mb >= max(256, 2 * size_mb(values(node)["work_mem"]) * cpus)
        assert size_mb(values(node)["work_mem"]) >= 1
        assert size_mb(values(node)["shared_buffers"]) <= node.memory_mb / 2
        committed = size_mb(values(node)["shared_buffers"]) + 3 * size_mb(values(node)["autovacuum_work_mem"])
        server = Server.COORDINATOR if node is result.coordinator else Server.WORKER
        load = load_of(server, clients=result.connections, workers=workers, cpus=cpus)
        assert committed + load.backends * (8 if node is result.coordinator else 4) <= 0.9 * node.memory_mb
    if result.worker and result.coordinator:
        pool = int(values(result.coordinator)["citus.max_shared_pool_size"])
        assert pool < int(values(result.worker)["max_connections"]) - 3


def test_more_memory_never_means_fewer_clients_or_less_work_mem_at_the_top() -> None:
    clients = [tuned(total_mb).connections for total_mb in range(6_700, 20_000, 100)]
    assert clients == sorted(clients)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"citus_pg_major": 14}, {"wal_compression": "on"}),
        ({"citus_pg_major": 15}, {"wal_compression": "lz4"}),
        ({"citus_pg_major": 18}, {"wal_compression": "lz4", "max_active_replication_origins": "20"}),
        ({"storage": Storage.HDD}, {"random_page_cost": "4", "effective_io_concurrency": "2"}),
        ({"storage": Storage.NVME}, {"random_page_cost": "1.1", "effective_io_concurrency": "1000"}),
        ({"workload": Workload.OLAP}, {"jit": "on", "default_statistics_target": "500", "max_wal_size": "16GB"}),
        (
            {"workload": Workload.OLTP},
            {"jit": "off", "max_wal_size": "8GB", "citus.executor_slow_start_interval": "100ms"},
        ),
        ({"cpus": 2}, {"citus.max_adaptive_executor_pool_size": "2", "max_parallel_workers": "2"}),
        ({"cpus": 12}, {"citus.max_adaptive_executor_pool_size": "4", "max_parallel_workers_per_gather": "4"}),
        ({"cpus": 96}, {"citus.max_adaptive_executor_pool_size": "16"}),
        ({"cpus": 96, "workload": Workload.OLTP}, {"citus.max_adaptive_executor_pool_size": "2"}),
    ],
)
def test_settings_by_version_storage_workload_and_processors(given: dict[str, Any], expected: dict[str, str]) -> None:
    found = values(tuned(64_000, **given).coordinator)
    assert {name: found[name] for name in expected} == expected


def test_parameters_of_postgresql_18_are_not_written_for_17() -> None:
    assert "max_active_replication_origins" not in values(tuned(64_000, citus_pg_major=17).worker)


def test_everything_written_is_a_known_parameter_with_its_reason_and_source() -> None:
    result = tuned(64_000, services=ALL, citus_pg_major=18)
    absent = {14: parameter_names.NOT_IN_14 | parameter_names.ONLY_18, 18: parameter_names.NOT_IN_18}
    for node, major in ((result.coordinator, 18), (result.worker, 18), (result.plain, 14)):
        assert node is not None
        names = [setting.name for setting in node.settings]
        assert len(names) == len(set(names))
        for setting in node.settings:
            assert setting.formula
            assert setting.source
            assert setting.name not in absent[major]
            assert setting.restart == needs_restart(setting.name, major)
        ours = {name: value for name, value in values(node).items() if name != "wal_level"}
        problems = check_user_settings(ours, "ours", major).problems
        assert all("cannot be set" in problem or "first library" in problem for problem in problems), problems


def test_the_pair_is_ready_for_a_standby() -> None:
    pair = values(tuned(15_900, services=ALL).plain)
    assert pair["wal_level"] == "replica"
    assert pair["wal_log_hints"] == "on"
    assert pair["shared_preload_libraries"] == "pg_stat_statements"
    assert not [name for name in pair if name.startswith("citus.")]


def test_user_settings_win_in_place_or_at_the_end() -> None:
    node = tuned(7_840).worker
    assert node is not None
    merged = with_user_settings(
        node.settings,
        {
            "WORK_MEM": "32MB",
            "auto_explain.log_min_duration": 250,
            "jit": True,
            "seq_page_cost": 0.5,
            "max_files_per_process": 2000,
        },
    )
    by_name = {setting.name: setting for setting in merged}
    assert [setting.name for setting in merged[: len(node.settings)]] == [setting.name for setting in node.settings]
    assert (by_name["work_mem"].value, by_name["work_mem"].group) == ("32MB", Group.MEMORY)
    assert by_name["work_mem"].formula == "set in cluster.yaml"
    assert by_name["work_mem"].inputs == ""
    assert (by_name["jit"].value, by_name["seq_page_cost"].value) == ("on", "0.5")
    assert [(s.name, s.value, s.restart) for s in merged if s.group is Group.USER] == [
        ("auto_explain.log_min_duration", "250", True),
        ("max_files_per_process", "2000", True),
        ("seq_page_cost", "0.5", False),
    ]
    assert with_user_settings(node.settings, {}) == node.settings
