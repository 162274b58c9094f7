"""Prometheus as the generator makes it: what it reads, how it judges it, and how it is shown."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import dashboard_support
import pytest
import yaml
from cluster_support import oldest_image, require_images
from generated_cluster import GeneratedCluster
from pair_support import PRIMARY, REPLICA, Pair
from waiting import eventually

from citus_cluster.model.images import DEFAULT_MONITORING_IMAGE, DEFAULT_PG14_IMAGE, DEFAULT_REDIS_IMAGE

pytestmark = pytest.mark.cluster

RULES = "generated/config/monitoring/alerts.yml"
DISK_MB = 768
"""The size of the disk of worker 1."""
SHOW_NOTHING = ["Time left", "Processor time of tenants", "Queries of tenants", "Figures that could not be read"]
"""Panels without a series: nothing was moved yet, tenants are not counted by default, and all figures can be read."""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    require_images(DEFAULT_MONITORING_IMAGE, DEFAULT_PG14_IMAGE, DEFAULT_REDIS_IMAGE, "python:3.13-slim")
    made = GeneratedCluster(tmp_path_factory.mktemp("monitoring"), oldest_image())
    disk = f'citus-worker1-data: {{driver_opts: {{type: tmpfs, device: tmpfs, o: "size={DISK_MB}m"}}}}'
    try:
        made.create("--services=citus,pg14,redis,admin-api,monitoring", "--workers=2", "--yes")
        (made.root / "docker-compose.override.yml").write_text(f"volumes:\n  {disk}\n")
        made.cli("up")
        yield made
    finally:
        made.remove()


def ask(one: GeneratedCluster, path: str, **parameters: str) -> Any:
    query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
    with urllib.request.urlopen(f"http://127.0.0.1:{one.monitoring_port}{path}{query}", timeout=10) as answer:
        return json.load(answer)["data"]


def ask_api(one: GeneratedCluster, path: str) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{one.admin_port}{path}")
    request.add_header("Authorization", f"Bearer {one.secret('admin_api_read_token')}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def query(one: GeneratedCluster, expression: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(one, "/api/v1/query", query=expression)["result"]
    return found


def firing(one: GeneratedCluster) -> set[str]:
    return {
        found["labels"]["alertname"] for found in ask(one, "/api/v1/alerts")["alerts"] if found["state"] == "firing"
    }


def test_prometheus_reads_the_figures_with_a_token_of_its_own(one: GeneratedCluster) -> None:
    eventually(lambda: query(one, 'up{job="citus-cluster"} == 1'), ignoring=OSError)
    eventually(lambda: len(query(one, "citus_cluster_node_up == 1")) == 3)
    assert one.secret("monitoring_token") not in (one.root / "generated/config/admin-api/tokens.json").read_text()
    # Views are read as a role that may only monitor, which logs in to each node itself.
    role = (
        "SELECT rolsuper, pg_has_role(oid, 'pg_monitor', 'USAGE') FROM pg_roles WHERE rolname = 'citus_cluster_reader'"
    )
    eventually(lambda: one.sql(role, 1) == [(False, True)])
    sessions = "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'citus_cluster_reader'"
    eventually(lambda: ask_api(one, "/api/v1/nodes") and one.sql(sessions) == [(True,)])
    states = {rule["name"]: rule["health"] for group in ask(one, "/api/v1/rules")["groups"] for rule in group["rules"]}
    assert set(states.values()) <= {"ok", "unknown"}
    assert "CitusNodeDown" in states


def test_status_and_the_api_show_it(one: GeneratedCluster) -> None:
    def condition_by_command() -> str:
        companions = one.cli("status", "--format=json", check=False).json()["companions"]
        return str(next(found["condition"] for found in companions if found["service"] == "monitoring"))

    def condition_by_api() -> str:
        companions = ask_api(one, "/api/v1/services")["companions"]
        return str(next(found["condition"] for found in companions if found["service"] == "monitoring"))

    assert condition_by_command() == "ok"
    eventually(lambda: condition_by_api() == "ok")
    one.compose("stop", "prometheus")
    assert condition_by_command() == "down"
    eventually(lambda: condition_by_api() == "down")
    one.cli("up")
    assert condition_by_command() == "ok"
    eventually(lambda: condition_by_api() == "ok")


def shorten(one: GeneratedCluster) -> None:
    """Let every alert fire at once, and at thresholds that a test can reach, without another change of the rules."""
    rules = yaml.safe_load((one.root / RULES).read_text())
    thresholds = {
        "> 600": "> 1",
        "> 10e9": "> 1e6",
        "> 100": "> 0",
        "> 1e9": "> 1e3",
        "[15m]": "[10s]",
        "> 300": "> 15",
    }
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
        for usual, short in thresholds.items():
            rule["expr"] = rule["expr"].replace(usual, short)
    (one.root / RULES).write_text(yaml.safe_dump(rules))
    settings = one.root / "generated/config/monitoring/prometheus.yml"
    text = settings.read_text()
    settings.write_text(text.replace(": 15s", ": 2s").replace("scrape_timeout: 10s", "scrape_timeout: 2s"))
    one.compose("kill", "-s", "HUP", "prometheus")


def wait_for(one: GeneratedCluster, *alerts: str, timeout_s: float = 90) -> None:
    """Wait until each of these alerts has fired; they need not fire at the same time."""
    fired: set[str] = set()

    def have_fired() -> bool:
        fired.update(firing(one))
        return fired >= set(alerts)

    eventually(have_fired, lambda: f"without {set(alerts) - fired}", timeout_s=timeout_s)


def distribute(one: GeneratedCluster, table: str, *, shards: int) -> None:
    one.sql(f"CREATE TABLE {table} (id bigint PRIMARY KEY, text text)")
    one.sql(f"SELECT create_distributed_table('{table}', 'id', shard_count => {shards}, colocate_with => 'none')")
    one.sql(f"INSERT INTO {table} SELECT n, repeat('x', 100) FROM generate_series(1, 20000) AS n")


def unbalance(one: GeneratedCluster, held: ExitStack) -> None:
    """Put all shards on worker 1, and keep Citus from removing what it has moved: a session still reads there."""
    distribute(one, "facts", shards=2)
    moves = one.sql(
        "SELECT format('SELECT citus_move_shard_placement(%s, %L, 5432, %L, 5432, %L)', shardid, nodename, "
        "'citus-worker1', 'block_writes'), shard_name FROM citus_shards WHERE nodename = 'citus-worker2'"
    )
    reader = held.enter_context(closing(one.connect(2)))
    reader.execute("BEGIN")
    for _, shard in moves:
        reader.execute(f"SELECT count(*) FROM {shard}".encode())
    one.sql("ALTER SYSTEM SET citus.defer_shard_delete_interval = -1")
    one.sql("SELECT pg_reload_conf()")
    for move, _ in moves:
        one.sql(move)
    one.sql("SELECT citus_set_node_property('citus-worker2', 5432, 'shouldhaveshards', false)")
    distribute(one, "notes", shards=4)
    one.sql("SELECT citus_set_node_property('citus-worker2', 5432, 'shouldhaveshards', true)")


def rebalance_in_vain(one: GeneratedCluster) -> None:
    """Start a rebalance whose first moves fail again and again, and the others wait for them.

    Citus drops a table that it finds in the place of a shard, but not a view.
    """
    for (shard,) in one.sql("SELECT shard_name FROM citus_shards WHERE table_name = 'notes'::regclass"):
        one.sql(f"SET citus.enable_ddl_propagation = off; CREATE VIEW {shard} AS SELECT 1 AS id", 2)
    one.cli("rebalance", "start")


def delay_standby(one: GeneratedCluster) -> None:
    """Start a standby in the container of the coordinator, pause its replay, and write more than the limit."""
    with (one.root / "generated/config/coordinator/pg_hba.conf").open("a") as rules:
        rules.write("local replication all trust\n")
    one.sql("SELECT pg_reload_conf()")
    settings = "-c config_file=/etc/citus-cluster/postgresql.conf -c shared_buffers=16MB"
    place = "-c unix_socket_directories=/tmp -c listen_addresses="
    start = f"""pg_basebackup -U postgres -D /tmp/standby -R -c fast
        pg_ctl -w -D /tmp/standby -l /tmp/standby.log -o "{settings} {place}" start
        psql -h /tmp -U postgres -c 'SELECT pg_wal_replay_pause()'"""
    one.docker("exec", "--user=postgres", one.container("citus-coordinator"), "sh", "-e", "-c", start)
    one.sql("SELECT pg_logical_emit_message(true, 'test', repeat('x', 2000000))")


def keep_wal(one: GeneratedCluster) -> None:
    """Leave a slot that keeps WAL on worker 1, and one on the coordinator that has lost it."""
    one.sql("SELECT pg_create_physical_replication_slot('forgotten', true)", 1)
    one.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    one.sql("SELECT pg_reload_conf()")
    one.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")
    one.sql("INSERT INTO facts SELECT n, repeat('x', 100) FROM generate_series(20001, 60000) AS n")
    for _ in range(3):
        one.sql("SELECT pg_switch_wal() FROM pg_logical_emit_message(true, 'test', 'x')")
    one.sql("CHECKPOINT")


def fill_disk(one: GeneratedCluster) -> None:
    """Leave 15 % of the disk of worker 1, whose data are on a small file system."""
    data = "/var/lib/postgresql/data"
    fill = f"""free=$(($(df -k --output=avail {data} | tail -n 1) - {DISK_MB} * 1024 * 15 / 100))
        head -c ${{free}}K /dev/zero > {data}/filler"""
    one.docker("exec", "--user=postgres", one.container("citus-worker1"), "sh", "-c", fill)


def take_connections(one: GeneratedCluster, held: ExitStack) -> None:
    """Open 90 % of the connections of worker 2; Citus needs some for its moves."""
    ((limit,),) = one.sql("SELECT current_setting('max_connections')::int", 2)
    for _ in range(int(limit) * 9 // 10):
        held.enter_context(closing(one.connect(2)))


def shown(one: GeneratedCluster) -> dict[str, int]:
    """Send every query of the dashboard. Returns the number of series that each panel shows."""
    (api,) = query(one, "citus_cluster_coordinator_up")
    counts: dict[str, int] = {}
    for title, expression, _ in dashboard_support.queries(api["metric"]["instance"]):
        counts[title] = counts.get(title, 0) + len(query(one, expression))
    return counts


def want_another_worker(one: GeneratedCluster) -> None:
    wanted = one.root / "generated/config/admin-api/cluster.json"
    config = json.loads(wanted.read_text())
    config["workers"].append({"host": "citus-worker9", "port": 5432})
    new = wanted.with_suffix(".new")
    new.write_text(json.dumps(config))
    new.rename(wanted)


def test_alerts_fire_for_real_faults(one: GeneratedCluster) -> None:
    """Every alert that is declared; faults that do not hide each other are there at the same time."""
    shorten(one)
    eventually(lambda: ask(one, "/api/v1/status/config")["yaml"].count("2s") >= 2)
    eventually(lambda: not firing(one), lambda: f"{firing(one)} without a fault")
    pair = Pair(one)
    with ExitStack() as held:
        unbalance(one, held)
        delay_standby(one)
        keep_wal(one)
        fill_disk(one)
        one.sql("BEGIN; CREATE TABLE promised (id int); PREPARE TRANSACTION 'forgotten'")
        pair.sql(REPLICA, "SELECT pg_wal_replay_pause()")
        pair.sql(PRIMARY, "CREATE TABLE late AS SELECT generate_series(1, 1000)")
        one.docker("stop", "--time", "1", one.container("redis"))
        take_connections(one, held)
        rebalance_in_vain(one)
        # It reads the sizes of shards at its start, and then once a minute.
        one.docker("restart", "--time", "1", one.container("admin-api"))
        wait_for(
            one,
            "CitusShardSkew",
            "CitusCleanupBacklog",
            "CitusOldPreparedTransaction",
            "CitusSlotLag",
            "CitusLostSlot",
            "CitusStandbyLag",
            "CitusReplicationLag",
            "CitusCompanionDown",
            "CitusConnectionsNearLimit",
            "CitusDiskNearlyFull",
            "CitusRebalanceStuck",
            "CitusRebalanceRetries",
        )
        assert [title for title, count in shown(one).items() if not count] == SHOW_NOTHING
        one.sql("SELECT stop_metadata_sync_to_node('citus-worker1', 5432)")
        want_another_worker(one)
        blocker = held.enter_context(closing(one.connect()))
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE pg_dist_background_job IN ACCESS EXCLUSIVE MODE")
        one.docker("pause", one.container("citus-worker2"))
        wait_for(one, "CitusMetadataNotSynced", "CitusNodeDown", "CitusWorkerNotRegistered", "CitusFiguresStale")
    one.docker("pause", one.container("citus-coordinator"))
    wait_for(one, "CitusCoordinatorUnreachable")
    one.docker("stop", "--time", "1", one.container("admin-api"))
    wait_for(one, "CitusAdminApiDown")
