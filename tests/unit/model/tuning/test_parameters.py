"""The check of the settings in cluster.yaml."""

import pytest

from citus_cluster.model.tuning import parameter_names as names
from citus_cluster.model.tuning.parameter_values import TABLE
from citus_cluster.model.tuning.parameters import (
    Checked,
    Scalar,
    check_pair_settings,
    check_user_settings,
    conf_value,
    fixed_parameters,
    needs_restart,
)

KINDS = (names.BOOLEAN, names.INTEGER, names.REAL, names.MEMORY, names.TIME, names.TEXT, names.INTERNAL)


def problems(name: str, value: Scalar, pg_major: int | None = None) -> tuple[str, ...]:
    return check_user_settings({name: value}, "settings.worker", pg_major).problems


def test_every_name_has_one_kind() -> None:
    everything = frozenset().union(*KINDS)
    assert len(everything) == sum(len(kind) for kind in KINDS)
    assert everything >= names.POSTMASTER
    assert everything >= names.NOT_IN_14 | names.ONLY_14 | names.ONLY_17 | names.ONLY_18 | names.NOT_IN_18
    assert all(name == name.lower() for name in everything)
    assert fixed_parameters().keys() <= everything


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("work_mem", "64MB"),
        ("work_mem", 65536),
        ("work_mem", "1.5 GB"),
        ("Work_Mem", "64MB"),
        ("TimeZone", "Europe/Berlin"),
        ("statement_timeout", 0),
        ("checkpoint_timeout", "30min"),
        ("random_page_cost", 1.5),
        ("seq_page_cost", "1e-1"),
        ("jit", True),
        ("jit", "no"),
        ("wal_level", "logical"),
        ("wal_compression", "zstd"),
        ("ssl", "on"),
        ("shared_preload_libraries", "citus"),
        ("shared_preload_libraries", "citus, pg_cron, auto_explain"),
        ("shared_preload_libraries", '"citus",pg_cron'),
        ("auto_explain.log_min_duration", "1s"),
        ("pg_cron.database_name", "app"),
        ("cron.database_name", "app"),
        ("citus.node_conninfo", "sslmode=require sslrootcert='/tls/my ca.crt' keepalives=1"),
        ("citus.enable_ddl_propagation", "off"),
        ("max_worker_processes", 8),
        ("max_replication_slots", "4"),
        ("max_prepared_transactions", 100),
        ("log_line_prefix", "it's \\ \t%m"),
        ("work_mem", "0x1000"),
        ("work_mem", "0x40MB"),
        ("work_mem", "0.5 GB"),
        ("max_locks_per_transaction", "0144"),
        ("commit_delay", "1e2"),
        ("log_statement", "ALL"),
        ("huge_pages", True),
        ("synchronous_commit", "no"),
        ("wal_level", "Logical"),
        ("log_min_messages", "debug"),
        ("log_temp_files", -1),
        ("shared_buffers", "128MB"),
        ("shared_buffers", 16384),
        ("lock_timeout", "1h"),
        ("lock_timeout", "0.5min"),
        ("autovacuum_vacuum_cost_delay", "2500us"),
        ("checkpoint_completion_target", ".9"),
        ("wal_compression", "on"),
        ("default_toast_compression", "lz4"),
        ("default_transaction_isolation", "repeatable read"),
        ("citus.task_assignment_policy", "round-robin"),
        ("citus.cpu_priority_for_logical_replication_senders", 5),
        ("timezone", "Mars/Base"),
    ],
)
def test_good_settings_pass(name: str, value: Scalar) -> None:
    assert check_user_settings({name: value}, "settings.worker") == Checked()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("wrok_mem", "64MB", "did you mean work_mem?"),
        ("citus.shard_cuont", 64, "did you mean citus.shard_count?"),
        ("citus.zzzzzzzz", 1, "neither PostgreSQL nor Citus has such a parameter"),
        ("server_version", "17", "read-only"),
        ("include", "/etc/passwd", "is not a parameter"),
        ("work mem", "64MB", "is not a valid parameter name"),
        ("work_mem\nport", 1, "is not a valid parameter name"),
        ("work_mem = 1 #", 1, "is not a valid parameter name"),
        ("", 1, "is not a valid parameter name"),
        ("work_mem", "banana", "'banana' is not a size"),
        ("work_mem", "64 megabytes", "is not a size"),
        ("work_mem", "64mb", "is not a size"),
        ("work_mem", True, "'on' is not a size"),
        ("statement_timeout", "5 minutes", "is not a duration"),
        ("max_connections", "many", "is not a whole number"),
        ("random_page_cost", "cheap", "is not a number"),
        ("jit", "maybe", "neither on nor off"),
        ("log_statement", True, "'on' is not one of none, ddl, mod, all"),
        ("work_mem", -5, "'-5' is out of range: 64kB to 2147483647kB"),
        ("work_mem", "63kB", "out of range"),
        ("work_mem", "3TB", "out of range"),
        ("max_connections", 0, "out of range: 1 to 262143"),
        ("max_connections", "100MB", "is not a whole number"),
        ("max_connections", "08", "is not a whole number"),
        ("shared_buffers", 15, "out of range: 16 x 8kB to"),
        ("shared_buffers", "1h", "is not a size"),
        ("checkpoint_timeout", "10s", "out of range: 30s to 86400s"),
        ("random_page_cost", "-1", "out of range"),
        ("checkpoint_completion_target", 1.1, "out of range: 0 to 1"),
        ("citus.task_assignment_policy", "random", "is not one of greedy, first-replica, round-robin"),
        ("citus.isolation_test_session_process_id", "x", "is not a whole number"),
        ("random_page_cost", float("nan"), "not a finite number"),
        ("log_line_prefix", "a\nport = 1", "line break"),
        ("log_line_prefix", "a\0b", "control character"),
        ("auto_explain.x", "a\rb", "line break"),
        ("shared_preload_libraries", "pg_cron,citus", "citus must be the first"),
        ("shared_preload_libraries", "", "citus must be the first"),
        ("shared_preload_libraries", "citus_columnar", "citus must be the first"),
        ("wal_level", "replica", "stops every rebalance"),
        ("WAL_LEVEL", "minimal", "stops every rebalance"),
        ("max_prepared_transactions", 0, "two-phase commit"),
        ("max_worker_processes", 7, "use 8 or more"),
        ("max_replication_slots", 3, "use 4 or more"),
        ("max_wal_senders", 0, "use 4 or more"),
        ("max_logical_replication_workers", "1", "use 4 or more"),
        ("max_active_replication_origins", 1, "use 4 or more"),
        ("citus.node_conninfo", "sslmode=require password=x", "pg_dist_authinfo"),
        ("citus.node_conninfo", "user = 'me'", "pg_dist_authinfo"),
        ("citus.node_conninfo", "sslmode=require dbname=app", "does not accept the key dbname"),
        ("citus.node_conninfo", "postgresql://host", "a URI is not supported"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(name: str, value: Scalar, expected: str) -> None:
    (problem,) = problems(name, value)
    assert problem.startswith(f"settings.worker.{name}: ")
    assert expected in problem


@pytest.mark.parametrize("name", sorted(fixed_parameters()))
def test_fixed_parameters_are_refused_whatever_their_value(name: str) -> None:
    (problem,) = problems(name.upper(), "on")
    assert "cannot be set: " + fixed_parameters()[name] in problem


def test_a_refused_password_is_not_repeated() -> None:
    (problem,) = problems("citus.node_conninfo", "password=s3cret")
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    ("name", "pg_major", "refused"),
    [
        ("io_method", 17, True),
        ("io_method", 18, False),
        ("io_method", None, False),
        ("promote_trigger_file", 17, True),
        ("promote_trigger_file", 14, False),
        ("transaction_timeout", 14, True),
        ("transaction_timeout", 17, False),
    ],
)
def test_parameters_that_the_version_lacks(name: str, pg_major: int | None, refused: bool) -> None:
    values = {"io_method": "sync", "transaction_timeout": "1s"}
    assert bool(problems(name, values.get(name, "x"), pg_major)) is refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fsync", False),
        ("fsync", "off"),
        ("fsync", "NO"),
        ("full_page_writes", 0),
        ("autovacuum", "false"),
        ("statement_timeout", "30s"),
        ("max_connections", 300),
        ("citus.shard_replication_factor", 2),
        ("citus.node_conninfo", "sslmode=verify-full sslrootcert='/tls/ca.crt'"),
    ],
)
def test_dangerous_settings_are_a_warning(name: str, value: Scalar) -> None:
    checked = check_user_settings({name: value}, "settings.nodes.citus-worker2")
    assert not checked.problems
    (warning,) = checked.warnings
    assert warning.startswith(f"settings.nodes.citus-worker2.{name}: ")


@pytest.mark.parametrize("value", [True, "on", 1, "yes", "o"])
def test_their_safe_values_are_not(value: Scalar) -> None:
    assert not check_user_settings({"fsync": value}, "here").warnings


def test_all_problems_are_reported_at_once_in_order() -> None:
    checked = check_user_settings({"port": 1, "work_mem": "64MB", "wal_level": "minimal", "fsync": False}, "here")
    assert [problem.split(":")[0] for problem in checked.problems] == ["here.port", "here.wal_level"]
    assert len(checked.warnings) == 1


@pytest.mark.parametrize(
    ("name", "pg_major", "restart"),
    [
        ("shared_buffers", None, True),
        ("SHARED_BUFFERS", None, True),
        ("work_mem", None, False),
        ("citus.max_shared_pool_size", None, False),
        ("citus.stat_tenants_limit", None, True),
        ("pg_stat_statements.max", 17, True),
        ("autovacuum_max_workers", None, True),
        ("autovacuum_max_workers", 18, False),
        ("cron.database_name", None, True),
    ],
)
def test_what_needs_a_restart(name: str, pg_major: int | None, restart: bool) -> None:
    assert needs_restart(name, pg_major) is restart


@pytest.mark.parametrize(
    ("value", "text"), [(True, "on"), (False, "off"), (5, "5"), (0.1, "0.1"), (1e-7, "1e-07"), ("a b", "a b")]
)
def test_values_as_postgresql_writes_them(value: Scalar, text: str) -> None:
    assert conf_value(value) == text


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"max_connections": 7}, True),
        ({"max_connections": 8}, False),
        ({"MAX_CONNECTIONS": "5", "superuser_reserved_connections": 3}, False),
        ({"max_connections": 100, "superuser_reserved_connections": 100}, True),
    ],
)
def test_the_pair_keeps_a_connection_for_others_than_superusers(settings: dict[str, Scalar], refused: bool) -> None:
    found = check_pair_settings(settings, "settings.pg14").problems
    assert bool(found) == refused
    assert all("superuser_reserved_connections reserves" in problem for problem in found)


@pytest.mark.parametrize(
    ("name", "value", "pg_major", "refused"),
    [
        # 14 has no words for it, 15 and 16 have no table: only what every known version refuses is refused there.
        ("autovacuum_vacuum_cost_delay", 101, 14, True),
        ("autovacuum_vacuum_cost_delay", 101, 16, True),
        ("max_parallel_workers", 1024, 16, False),
        ("track_activity_query_size", 99, 18, True),
        ("citus.max_client_connections", -2, 16, True),
    ],
)
def test_values_are_judged_by_the_version(name: str, value: Scalar, pg_major: int, refused: bool) -> None:
    assert bool(problems(name, value, pg_major)) is refused


def test_the_table_and_the_names_agree() -> None:
    tabled = {line.split()[1]: line.split()[2:4] for line in TABLE.strip().splitlines()}
    kinds = {name: (kind, unit) for name, (kind, unit, *_) in tabled.items()}
    assert set(kinds) <= frozenset().union(*KINDS)
    for name in names.INTEGER & set(kinds):
        assert kinds[name] == ("integer", "-"), name
    for name in names.REAL & set(kinds):
        assert kinds[name] == ("real", "-"), name
    for name in names.MEMORY & set(kinds):
        assert kinds[name][1].endswith("B"), name
    assert set(kinds) >= {"work_mem", "log_statement", "citus.shard_count", "pg_stat_statements.max"}
