"""The users example on a cluster, as its README starts it; names of tests end with the rows of the requirements."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from console_blocks import check_console_blocks
from generated_cluster import ROOT, GeneratedCluster
from waiting import eventually

pytestmark = pytest.mark.cluster

FOLDER = ROOT / "examples" / "citus_users"


@contextmanager
def serving(cluster: GeneratedCluster, port: int, log: Path) -> Iterator[httpx.Client]:
    """Run ``uvicorn main:app`` in the example's folder."""
    environment = {**os.environ, "CLUSTER_DIR": str(cluster.root)}
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=FOLDER, env=environment, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            eventually(lambda: client.get("/docs").is_success, log.read_text, ignoring=httpx.TransportError)
            yield client
    finally:
        process.terminate()
        # Graceful: uvicorn answers what it has begun, and closes the pool.
        assert process.wait(timeout=30) in (0, -15), log.read_text()


@pytest.fixture(scope="module")
def users_cluster(main_cluster: GeneratedCluster) -> GeneratedCluster:
    main_cluster.create("--workers=2", "--services=citus,admin-api,example-users", "--up")
    return main_cluster


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("users") / "app.log"


@pytest.fixture(scope="module")
def api(users_cluster: GeneratedCluster, log: Path) -> Iterator[httpx.Client]:
    with serving(users_cluster, users_cluster.base_port + 20, log) as client:
        yield client


def test_the_component_serves_with_a_role_of_its_own(users_cluster: GeneratedCluster) -> None:
    """And a role that is lost comes back with the next start, or by the admin API, with the same password."""
    url = f"http://127.0.0.1:{users_cluster.example_ports['example-users']}"
    assert httpx.get(f"{url}/users/1", timeout=30).json()["name"] == "Alice"
    roles = users_cluster.sql(
        "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = 'example_users'"
    )
    assert roles == [(False, False, False)]
    listed = users_cluster.cli("roles", "list", "--format=json").out
    assert "generated/secrets/roles/example_users_password" in listed
    status = json.loads(users_cluster.cli("status", "--format=json").out)
    (own,) = (one for one in status["companions"] if one["service"] == "example-users")
    assert (own["condition"], own["reason"]) == ("ok", None)


def test_a_changed_password_reaches_the_component(users_cluster: GeneratedCluster) -> None:
    users_cluster.cli("roles", "password", "example_users")
    assert "restarting example-users: a password was changed" in users_cluster.cli("up").text
    url = f"http://127.0.0.1:{users_cluster.example_ports['example-users']}"
    assert httpx.get(f"{url}/users/2", timeout=30).json()["name"] == "Bob"


def test_a_role_with_another_password_is_named_and_repaired(users_cluster: GeneratedCluster) -> None:
    users_cluster.compose("stop", "admin-api")  # it would repair the role before anybody sees it
    users_cluster.sql("ALTER ROLE example_users PASSWORD 'other'")
    status = json.loads(users_cluster.cli("status", "--format=json", check=False).out)
    (own,) = (one for one in status["companions"] if one["service"] == "example-users")
    assert "role example_users has another password on the coordinator" in own["reason"]
    users_cluster.cli("up")
    status = json.loads(users_cluster.cli("status", "--format=json").out)
    (own,) = (one for one in status["companions"] if one["service"] == "example-users")
    assert own["condition"] == "ok"


def superuser(cluster: GeneratedCluster, statement: str) -> list[tuple[Any, ...]]:
    return cluster.sql(statement.replace("users'", "example_users.users'"))


def test_the_first_users_are_there_b23_b28(api: httpx.Client) -> None:
    assert api.get("/users/1").json() == {
        "user_id": 1,
        "name": "Alice",
        "email": "alice@example.com",
        "created_at": "2025-01-15",
    }
    assert api.get("/users/2").json()["name"] == "Bob"
    missing = api.get("/users/1000000")
    assert (missing.status_code, missing.headers["Content-Type"]) == (404, "application/problem+json")


def test_the_commands_of_the_readme_do_what_it_shows(api: httpx.Client) -> None:
    port = api.base_url.port
    check_console_blocks(
        FOLDER / "README.md", os.environ, lambda script: script.replace("localhost:8000", f"127.0.0.1:{port}"), least=5
    )


def test_the_table_has_four_shards_by_hash_b21_b22_b24(api: httpx.Client, users_cluster: GeneratedCluster) -> None:
    api.get("/users/1")
    columns = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = 'users'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert superuser(users_cluster, columns) == [
        ("user_id", "integer"),
        ("name", "text"),
        ("email", "text"),
        ("created_at", "date"),
    ]
    assert superuser(users_cluster, "SELECT count(*) FROM citus_shards WHERE table_name = 'users'::regclass") == [(4,)]
    method = "SELECT partmethod FROM pg_dist_partition WHERE logicalrelid = 'users'::regclass"
    assert superuser(users_cluster, method) == [("h",)]


def test_a_user_is_created_b29(api: httpx.Client) -> None:
    created = api.post("/users", json={"name": "Grace", "email": "grace@example.com"})
    assert created.status_code == 201
    assert api.get(created.headers["Location"]).json() == created.json()
    assert created.json()["user_id"] > 2


@pytest.mark.parametrize("name", ["😀", "'); DROP TABLE users; --", "x" * 100, "<script>alert(1)</script>"])
def test_any_name_is_stored_as_it_is(api: httpx.Client, name: str) -> None:
    created = api.post("/users", json={"name": name, "email": "a@example.com"}).json()
    assert api.get(f"/users/{created['user_id']}").json()["name"] == name


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"{",
        b'{"name": "a", "email": 1}',
        b'{"name": "a", "email": "no address"}',
        b'{"name": "a\\u0000", "email": "a@example.com"}',
        b'{"name": "\\ud800", "email": "a@example.com"}',
        b'{"name": "' + 10_000 * b"x" + b'", "email": "a@example.com"}',
    ],
)
def test_what_cannot_be_stored_is_refused(api: httpx.Client, content: bytes) -> None:
    answer = api.post("/users", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")


@pytest.mark.parametrize("user_id", ["0", "-1", "2147483648", "1;", "%00", "a", "1.5"])
def test_an_id_that_cannot_be_one_is_refused(api: httpx.Client, user_id: str) -> None:
    assert api.get(f"/users/{user_id}").status_code == 422
    assert api.get(f"/users/{user_id}/shard").status_code == 422


def agrees(api: httpx.Client, cluster: GeneratedCluster, count: int) -> None:
    """Compare the answers for random ids with what Citus says, and with where the rows really are."""
    rng = random.Random(7)
    ids = [rng.randint(1, 2**31 - 1) for _ in range(count)]
    expected = dict(
        cluster.sql(
            "SELECT id, (shardid, nodename, nodeport)::text FROM unnest(ARRAY["
            + ",".join(map(str, ids))
            + "]) AS id JOIN citus_shards ON shardid = "
            "get_shard_id_for_distribution_column('example_users.users', id)"
        )
    )
    for user_id in ids:
        shard = api.get(f"/users/{user_id}/shard").json()
        assert f"({shard['shard_id']},{shard['node']},{shard['port']})" == expected[user_id]


def test_the_shard_is_that_of_citus_also_after_a_rebalance_b30(
    api: httpx.Client, users_cluster: GeneratedCluster
) -> None:
    agrees(api, users_cluster, 1000)
    before = {user: api.get(f"/users/{user}/shard").json()["node"] for user in range(1, 101)}
    users_cluster.cli("nodes", "drain", "citus-worker2", "--wait")
    agrees(api, users_cluster, 1000)
    after = {user: api.get(f"/users/{user}/shard").json()["node"] for user in range(1, 101)}
    assert set(before.values()) == {"citus-worker1", "citus-worker2"}
    assert set(after.values()) == {"citus-worker1"}
    assert api.get("/users/1").json()["name"] == "Alice"
    shard = api.get("/users/1/shard").json()
    rows = users_cluster.sql(shard["sql"])
    assert rows == [(shard["shard_id"], str(shard["hash_min"]), str(shard["hash_max"]), shard["node"], shard["port"])]


def test_the_page_shows_users_by_shard_and_node(api: httpx.Client) -> None:
    page = api.get("/")
    assert page.status_code == 200
    for text in ("citus-worker1:5432", "Alice", "Bob", "&lt;script&gt;"):
        assert text in page.text
    assert "<script>" not in page.text
    assert "http" not in page.text.replace("http-equiv", "")


def test_a_coordinator_that_is_away_is_a_503_in_time_and_comes_back(
    api: httpx.Client, users_cluster: GeneratedCluster
) -> None:
    users_cluster.docker("stop", users_cluster.container("citus-coordinator"))
    try:
        for path in ("/users/1", "/users/1/shard", "/"):
            answer = api.get(path, timeout=10)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert api.get("/health").status_code == 503
        made = api.post("/users", json={"name": "Heidi", "email": "heidi@example.com"})
        assert made.status_code == 503
    finally:
        users_cluster.docker("start", users_cluster.container("citus-coordinator"))
    eventually(lambda: api.get("/health").status_code == 200, "the service recovers")
    assert api.get("/users/1").json()["name"] == "Alice"
