"""The main job on real Citus, step by step on one cluster for each image: the tests build on each other."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from commit_writer import CommitWriter
from generated_cluster import GeneratedCluster

pytestmark = pytest.mark.cluster

ROWS = 200_000
WORKERS = [f"citus-worker{number}" for number in (1, 2, 3, 4, 5)]
CHECKSUM = "SELECT count(*), sum(hashtextextended(tenant || ':' || id || ':' || payload, 0)) FROM events"

CONTAINER_JOURNAL = "generated/journal/admin-api/journal.jsonl"


def checksum(cluster: GeneratedCluster) -> tuple[Any, ...]:
    return cluster.sql(CHECKSUM)[0]


def shards_by_node(cluster: GeneratedCluster) -> dict[str, int]:
    rows = cluster.sql("SELECT nodename, count(*) FROM citus_shards WHERE table_name = 'events'::regclass GROUP BY 1")
    return dict(rows)


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What an earlier test of the module saw, for the later ones."""
    return {}


def test_one_command_makes_a_running_registered_verified_cluster(
    main_cluster: GeneratedCluster, facts: dict[str, Any]
) -> None:
    result = main_cluster.create("--workers=3", "--memory=12000", "--up")
    facts["password"] = main_cluster.password
    assert main_cluster.active_workers() == ["citus-worker1", "citus-worker2", "citus-worker3"]
    assert "postgresql://postgres:****@127.0.0.1" in result.out
    assert f"http://127.0.0.1:{main_cluster.admin_port}" in result.out
    assert main_cluster.password not in result.text
    assert main_cluster.sql("SELECT shouldhaveshards FROM pg_dist_node WHERE groupid = 0") == [(False,)]
    left = "SELECT count(*) FROM citus_tables UNION ALL SELECT count(*) FROM pg_dist_cleanup"
    assert main_cluster.sql(left) == [(0,), (0,)]


def test_a_table_is_distributed_and_loaded(main_cluster: GeneratedCluster, facts: dict[str, Any]) -> None:
    main_cluster.sql("CREATE TABLE events (tenant bigint, id bigint, payload text, PRIMARY KEY (tenant, id))")
    main_cluster.sql("SELECT create_distributed_table('events', 'tenant')")
    main_cluster.sql(
        f"INSERT INTO events SELECT i % 1000, i, md5(i::text) || repeat('x', 100) FROM generate_series(1, {ROWS}) i"
    )
    facts["checksum"] = checksum(main_cluster)
    assert facts["checksum"][0] == ROWS
    assert set(shards_by_node(main_cluster)) == {"citus-worker1", "citus-worker2", "citus-worker3"}


def test_a_second_run_changes_nothing(main_cluster: GeneratedCluster) -> None:
    before = {path: path.stat().st_mtime_ns for path in main_cluster.root.rglob("*") if path.is_file()}
    result = main_cluster.setup("--workers=3")
    assert "Nothing to do" in result.out
    assert {path: path.stat().st_mtime_ns for path in main_cluster.root.rglob("*") if path.is_file()} == before
    again = main_cluster.cli("up", "--format=json").json()
    assert again["changed"] == []
    assert again["verified"] is True


def started_at(cluster: GeneratedCluster) -> dict[str, str]:
    names = [cluster.container(service) for service in ("citus-coordinator", *WORKERS[:3], "admin-api")]
    lines = cluster.docker("inspect", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}", *names).out.splitlines()
    return dict(line.split(" ", 1) for line in lines)


def test_growing_interrupts_nobody_and_keeps_password_and_rows(
    main_cluster: GeneratedCluster, facts: dict[str, Any]
) -> None:
    facts["started"] = started_at(main_cluster)
    refused = main_cluster.setup("--workers=5", check=False)
    assert refused.status == 4
    assert "add       citus-worker4, citus-worker5: mem_limit" in refused.out
    assert "restart   none" in refused.out
    with CommitWriter(main_cluster) as writer:
        main_cluster.setup("--workers=5", "--force", "--up")
        writer.goes_on()
    assert (writer.failures, writer.slow) == ([], [])
    assert started_at(main_cluster) == facts["started"]
    assert main_cluster.password == facts["password"]
    assert main_cluster.active_workers() == WORKERS
    assert checksum(main_cluster) == facts["checksum"]
    assert set(shards_by_node(main_cluster)) == set(WORKERS[:3]), "adding a worker must move nothing"


def test_a_rebalance_moves_shards_and_loses_no_row(main_cluster: GeneratedCluster, facts: dict[str, Any]) -> None:
    plan = main_cluster.cli("rebalance", "plan", "--format=json").json()
    assert {move["target"] for move in plan["moves"]} == {"citus-worker4:5432", "citus-worker5:5432"}
    with CommitWriter(main_cluster) as writer:
        result = main_cluster.add_worker("--host", "citus-worker4", "--port", "5432", "--rebalance", "--wait")
        writer.goes_on()
    assert writer.failures == []
    assert started_at(main_cluster) == facts["started"]
    assert "already registered" in result.out
    assert "shards" in result.err, "the progress names shards"
    shards = shards_by_node(main_cluster)
    assert min(shards[worker] for worker in WORKERS) >= 5, shards
    assert checksum(main_cluster) == facts["checksum"]
    status = main_cluster.cli("rebalance", "status", "--format=json").json()
    assert status["state"] == "finished"
    assert status["shards_done"] == status["shards_total"] > 0
    again = main_cluster.cli("rebalance", "start", "--wait")
    assert "othing to move" in again.text


def ask(
    cluster: GeneratedCluster, method: str, path: str, token: str | None, body: dict[str, Any] | None = None
) -> tuple[int, Any]:
    """Ask the admin API; status and body."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{cluster.admin_port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {}),
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_admin_api_does_the_same_over_http(main_cluster: GeneratedCluster) -> None:
    def call(method: str, path: str, token: str | None, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        return ask(main_cluster, method, path, token, body)

    token = main_cluster.secret("admin_api_token")
    status, rows = call("GET", "/api/v1/nodes/active", token)
    assert (status, sorted(row["node_name"] for row in rows)) == (200, main_cluster.active_workers())
    assert call("GET", "/api/v1/nodes/active", None)[0] == 401
    assert call("GET", "/health", None)[0] == 200
    assert call("POST", "/api/v1/nodes", token, {"host": "citus-worker4", "port": 5432})[0] == 200
    status, problem = call("POST", "/api/v1/nodes", token, {"host": "nowhere", "port": 5432})
    assert status == 502
    assert problem["hint"]
    assert call("GET", "/api/v1/rebalance", token)[1]["state"] == "finished"
    assert call("POST", "/api/v1/rebalance", token, {})[1]["result"] == {"job_id": None, "rebalance": None}
    # By the container, in the only folder that it may write; as the command line does in generated/journal.jsonl.
    lines = [json.loads(line) for line in (main_cluster.root / CONTAINER_JOURNAL).read_text().splitlines()]
    asked = [line for line in lines if line["by"].get("role") == "admin"]
    assert [(line["operation"], line["result"], line.get("error"), line["outcome"]) for line in asked] == [
        ("add-worker", "done", None, {"outcome": "already"}),
        ("add-worker", "failed", problem["code"], {}),
        ("rebalance-start", "done", None, {"job_id": None}),
    ]
    assert {line["by"]["program"] for line in lines} == {"admin-api"}
    journal = (main_cluster.root / "generated/journal.jsonl").read_text()
    of_command = [json.loads(line) for line in journal.splitlines() if '"rebalance-start"' in line][-1]
    assert of_command["parameters"].keys() == asked[-1]["parameters"].keys()
    assert of_command["outcome"] == asked[-1]["outcome"]


def test_a_named_token_counts_in_the_running_container_and_its_log_names_it(main_cluster: GeneratedCluster) -> None:
    path = "/api/v1/nodes/active"
    token = main_cluster.cli("tokens", "create", "e2e", "--role=admin", "--expires=1h").out.strip()
    assert ask(main_cluster, "GET", f"{path}?limit=1&secret=hidden", token)[0] in {200, 422}
    status, problem = ask(main_cluster, "POST", "/api/v1/nodes", token, {"host": "nowhere", "port": 5432})
    assert status == 502
    main_cluster.cli("tokens", "revoke", "e2e")
    assert ask(main_cluster, "GET", path, token)[0] == 401
    last = json.loads((main_cluster.root / CONTAINER_JOURNAL).read_text().splitlines()[-1])
    assert (last["by"]["name"], last["by"]["request_id"]) == ("e2e", problem["request_id"])

    log = main_cluster.compose("logs", "--no-log-prefix", "--no-color", "admin-api").out
    records = [json.loads(line) for line in log.splitlines()]
    (request,) = [one for one in records if one.get("request_id") == problem["request_id"] and "status" in one]
    assert (request["token"], request["role"], request["status"]) == ("e2e", "admin", 502)
    assert [one["time"] for one in records] == sorted(one["time"] for one in records)
    assert not any("/health" in one.get("path", "") for one in records)
    for secret in (token, "hidden", main_cluster.secret("admin_api_token"), main_cluster.password):
        assert secret not in log


def test_a_restarted_coordinator_still_reaches_its_workers(
    main_cluster: GeneratedCluster, facts: dict[str, Any]
) -> None:
    main_cluster.docker("restart", main_cluster.container("citus-coordinator"))
    main_cluster.cli("up")
    assert checksum(main_cluster) == facts["checksum"]


def test_down_and_up_keep_every_row(main_cluster: GeneratedCluster, facts: dict[str, Any]) -> None:
    main_cluster.compose("down")
    main_cluster.compose("up", "-d", "--wait")
    assert checksum(main_cluster) == facts["checksum"]
    assert main_cluster.active_workers() == WORKERS


def test_a_recreated_container_keeps_its_rows(main_cluster: GeneratedCluster, facts: dict[str, Any]) -> None:
    major = main_cluster.sql("SHOW server_version_num")[0][0][:2]
    mount = "/var/lib/postgresql/data" if int(major) < 18 else "/var/lib/postgresql"
    service = "citus-worker1"
    mounts = main_cluster.docker("inspect", "-f", "{{json .Mounts}}", main_cluster.container(service)).json()
    volumes = {one["Destination"]: one["Name"] for one in mounts if one["Type"] == "volume"}
    assert volumes == {mount: f"{main_cluster.name}_{service}-data"}, "one named volume, and no anonymous one"
    main_cluster.compose("rm", "--stop", "--force", service)
    main_cluster.cli("up")
    assert checksum(main_cluster) == facts["checksum"]


def test_status_tells_all_this(main_cluster: GeneratedCluster) -> None:
    found = main_cluster.cli("status", "--format=json").json()
    assert found["state"] == "ok", found["problems"]
    workers = {node["host"]: node for node in found["nodes"] if node["role"] == "worker"}
    assert sum(node["shard_count"] for node in workers.values()) == 32
    assert all(node["shard_bytes"] > 0 for node in workers.values())
    assert [table["name"] for table in found["tables"]] == ["events"]
    text = main_cluster.cli("status").out
    assert "citus-worker4" in text
    assert "\x1b" not in text


def test_files_never_hold_the_password(main_cluster: GeneratedCluster) -> None:
    kept = main_cluster.root / "generated/secrets"
    for path in main_cluster.root.rglob("*"):
        if path.is_file() and kept not in path.parents:
            assert main_cluster.password.encode() not in path.read_bytes(), path
