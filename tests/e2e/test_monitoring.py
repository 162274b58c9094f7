"""Prometheus as the generator makes it: what it reads, how it judges it, and how it is shown."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import yaml
from cluster_support import oldest_image, require_images
from generated_cluster import GeneratedCluster
from waiting import eventually

from citus_cluster.model.images import DEFAULT_MONITORING_IMAGE

pytestmark = pytest.mark.cluster

RULES = "generated/config/monitoring/alerts.yml"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    require_images(DEFAULT_MONITORING_IMAGE, "python:3.13-slim")
    made = GeneratedCluster(tmp_path_factory.mktemp("monitoring"), oldest_image())
    try:
        made.create("--services=citus,admin-api,monitoring", "--workers=2", "--yes", "--up")
        yield made
    finally:
        made.remove()


def ask(one: GeneratedCluster, path: str, **parameters: str) -> Any:
    query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
    with urllib.request.urlopen(f"http://127.0.0.1:{one.monitoring_port}{path}{query}", timeout=10) as answer:
        return json.load(answer)["data"]


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
    states = {rule["name"]: rule["health"] for group in ask(one, "/api/v1/rules")["groups"] for rule in group["rules"]}
    assert set(states.values()) <= {"ok", "unknown"}
    assert "CitusNodeDown" in states


def test_status_and_the_api_show_it(one: GeneratedCluster) -> None:
    (found,) = one.cli("status", "--format=json", check=False).json()["companions"]
    assert (found["service"], found["condition"]) == ("monitoring", "ok")
    one.compose("stop", "prometheus")
    (found,) = one.cli("status", "--format=json", check=False).json()["companions"]
    assert found["condition"] == "down"
    one.cli("up")
    (found,) = one.cli("status", "--format=json").json()["companions"]
    assert found["condition"] == "ok"


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


def test_alerts_fire_for_real_faults(one: GeneratedCluster) -> None:
    shorten(one)
    eventually(lambda: ask(one, "/api/v1/status/config")["yaml"].count("2s") >= 2)
    assert not {"CitusNodeDown", "CitusCoordinatorUnreachable", "CitusAdminApiDown"} & firing(one)
    one.sql("ALTER SYSTEM SET citus.defer_shard_delete_interval = -1")
    one.sql("ALTER SYSTEM SET citus.recover_2pc_interval = -1")
    one.sql("SELECT pg_reload_conf()")
    one.sql("CREATE TABLE facts (id bigint PRIMARY KEY, text text)")
    one.sql("SELECT create_distributed_table('facts', 'id', shard_count => 4)")
    one.sql("INSERT INTO facts SELECT n, repeat('x', 100) FROM generate_series(1, 20000) AS n")
    moves = one.sql(
        "SELECT format('SELECT citus_move_shard_placement(%s, %L, 5432, %L, 5432, %L)', shardid, nodename, "
        "'citus-worker1', 'block_writes') FROM citus_shards WHERE nodename = 'citus-worker2'"
    )
    for (move,) in moves:
        one.sql(move)
    one.sql("SELECT pg_create_physical_replication_slot('forgotten', true)", 1)
    one.sql("INSERT INTO facts SELECT n, repeat('x', 100) FROM generate_series(20001, 60000) AS n")
    with one.connect() as session:
        session.execute("BEGIN")
        session.execute("CREATE TABLE promised (id int)")
        session.execute("PREPARE TRANSACTION 'forgotten'")
    expected = {"CitusShardSkew", "CitusCleanupBacklog", "CitusOldPreparedTransaction", "CitusSlotLag"}
    # The sizes of shards are read once a minute.
    eventually(lambda: firing(one) >= expected, lambda: f"only {firing(one)}", timeout_s=150)
    one.sql("ROLLBACK PREPARED 'forgotten'")
    one.sql("SELECT pg_drop_replication_slot('forgotten')", 1)

    ((limit,),) = one.sql("SELECT current_setting('max_connections')::int", 2)
    sessions: list[psycopg.Connection[Any]] = []
    try:
        while len(sessions) < limit:
            sessions.append(one.connect(2))
    except psycopg.OperationalError:
        sessions.pop().close()
        sessions.pop().close()
    try:
        eventually(lambda: "CitusConnectionsNearLimit" in firing(one), lambda: f"only {firing(one)}", timeout_s=60)
    finally:
        for session in sessions:
            session.close()

    with one.connect() as session:
        session.execute("BEGIN")
        session.execute("LOCK TABLE pg_dist_node IN ACCESS EXCLUSIVE MODE")
        eventually(lambda: "CitusFiguresStale" in firing(one), lambda: f"only {firing(one)}", timeout_s=90)
        session.execute("ROLLBACK")

    one.docker("pause", one.container("citus-worker2"))
    eventually(lambda: "CitusNodeDown" in firing(one), lambda: f"only {firing(one)}", timeout_s=90)
    one.docker("unpause", one.container("citus-worker2"))

    wanted = one.root / "generated/config/admin-api/cluster.json"
    config = json.loads(wanted.read_text())
    config["workers"].append({"host": "citus-worker9", "port": 5432})
    new = wanted.with_suffix(".new")
    new.write_text(json.dumps(config))
    new.rename(wanted)
    eventually(lambda: "CitusWorkerNotRegistered" in firing(one), lambda: f"only {firing(one)}", timeout_s=60)

    one.docker("pause", one.container("citus-coordinator"))
    eventually(lambda: "CitusCoordinatorUnreachable" in firing(one), lambda: f"only {firing(one)}", timeout_s=90)
    one.docker("unpause", one.container("citus-coordinator"))
    one.docker("stop", "--time", "1", one.container("admin-api"))
    eventually(lambda: "CitusAdminApiDown" in firing(one), lambda: f"only {firing(one)}", timeout_s=60)
