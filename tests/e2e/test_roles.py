"""Ordinary roles on a generated cluster, as a user makes them: they work after restarts and on workers added later."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from generated_cluster import ROOT, GeneratedCluster
from sql_servers import NASTY_PASSWORD

pytestmark = pytest.mark.cluster

ROWS = 1000


@contextmanager
def session(cluster: GeneratedCluster, user: str, number: int = 0) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(
        host="127.0.0.1",
        port=cluster.base_port + number,
        user=user,
        password=cluster.secret(f"roles/{user}_password"),
        dbname=cluster.database,
        autocommit=True,
        connect_timeout=10,
    ) as conn:
        yield conn


def works(cluster: GeneratedCluster, *numbers: int) -> None:
    """Read and write distributed and reference tables as ``app``, from each of these nodes."""
    for number in numbers:
        with session(cluster, "app", number) as conn:
            counted = "SELECT count(*), sum(n) FROM items JOIN kinds ON kinds.id = n % 10"
            assert conn.execute(counted).fetchall() == [(ROWS, ROWS * (ROWS + 1) // 2)]
            with conn.transaction(force_rollback=True):
                conn.execute("INSERT INTO items SELECT -i, 0 FROM generate_series(1, 100) AS i")
                conn.execute("UPDATE items SET n = n + 1")
                conn.execute("INSERT INTO kinds VALUES (100)")
                assert conn.execute("DELETE FROM items WHERE id < 0").rowcount == 100


def listed(cluster: GeneratedCluster) -> dict[str, Any]:
    return {one["role"]: one for one in cluster.cli("roles", "list", "--format=json").json()["roles"]}


def test_a_role_that_may_create_makes_the_first_tables(main_cluster: GeneratedCluster) -> None:
    main_cluster.create("--workers=2", "--up")
    made = main_cluster.cli("roles", "create", "maker", "--access=create")
    assert main_cluster.secret("roles/maker_password") not in made.text
    assert f"postgresql://maker:****@127.0.0.1:{main_cluster.base_port}/postgres" in made.out
    with session(main_cluster, "maker") as conn:
        conn.execute("CREATE TABLE items (id bigint PRIMARY KEY, n int)")
        conn.execute("SELECT create_distributed_table('items', 'id', shard_count => 8)")
        conn.execute("CREATE TABLE kinds (id int PRIMARY KEY)")
        conn.execute("SELECT create_reference_table('kinds')")
        conn.execute("INSERT INTO items SELECT i, i FROM generate_series(1, %s) AS i", [ROWS])
        conn.execute("INSERT INTO kinds SELECT generate_series(0, 9)")


def test_an_odd_password_from_a_file(main_cluster: GeneratedCluster) -> None:
    (main_cluster.root / "password").write_text(NASTY_PASSWORD[::-1] + "\n", encoding="utf-8")
    made = main_cluster.cli("roles", "create", "app", "--password-file=password", "--format=json")
    assert made.json()["password_file"] == "generated/secrets/roles/app_password"
    kept = main_cluster.root / "generated/secrets/roles/app_password"
    assert kept.read_bytes() == NASTY_PASSWORD[::-1].encode()
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    (main_cluster.root / "password").unlink()
    works(main_cluster, 0, 1, 2)


def test_the_printed_command_works(main_cluster: GeneratedCluster) -> None:
    again = main_cluster.cli("roles", "create", "app")
    assert "is up to date on" in again.err
    (command,) = [line.split(maxsplit=1)[1] for line in again.out.splitlines() if line.strip().startswith("psql")]
    answer = main_cluster.run("sh", "-c", f"{command} -Atc 'SELECT current_user, count(*) FROM items'")
    assert answer.out == f"app|{ROWS}\n"


def test_it_works_after_down_and_up(main_cluster: GeneratedCluster) -> None:
    main_cluster.compose("down")
    main_cluster.compose("up", "-d", "--wait")
    works(main_cluster, 0, 1, 2)


def test_it_works_on_a_worker_added_later_and_on_tables_made_later(main_cluster: GeneratedCluster) -> None:
    main_cluster.setup("--workers=3", "--yes", "--up")
    works(main_cluster, 0, 3)
    main_cluster.cli("rebalance", "start", "--wait")
    with session(main_cluster, "maker") as conn:
        conn.execute("CREATE TABLE later (id bigserial PRIMARY KEY, n int)")
        conn.execute("SELECT create_distributed_table('later', 'id', shard_count => 6)")
    with session(main_cluster, "app", 3) as conn:
        conn.execute("INSERT INTO later SELECT i, i FROM generate_series(1, 60) AS i")
        assert conn.execute("SELECT count(*) FROM later").fetchall() == [(60,)]
    works(main_cluster, 0, 1, 2, 3)
    assert all(one["problems"] == [] for one in listed(main_cluster).values())
    assert main_cluster.cli("roles", "create", "app", "--format=json").json()["changed"] == []


def test_a_paused_worker_is_named_in_bounded_time(main_cluster: GeneratedCluster) -> None:
    worker = main_cluster.container("citus-worker2")
    started = time.monotonic()
    main_cluster.docker("pause", worker)
    try:
        refused = main_cluster.cli("roles", "create", "late", check=False)
        assert "citus-worker2:5432 does not answer" in main_cluster.cli("roles", "list").out
    finally:
        main_cluster.docker("unpause", worker)
    assert time.monotonic() - started < 40
    assert refused.status == 1
    assert "citus-worker2:5432 does not answer" in refused.err
    assert "late" not in listed(main_cluster)
    main_cluster.cli("roles", "create", "late", "--access=read")


def test_passwords_are_in_no_log_file_or_answer(main_cluster: GeneratedCluster) -> None:
    kept = main_cluster.root / "generated/secrets"
    for name in ("app", "maker", "late"):
        secret = main_cluster.secret(f"roles/{name}_password")
        part = secret[4:20]
        for path in main_cluster.root.rglob("*"):
            assert not path.is_file() or kept in path.parents or part.encode() not in path.read_bytes(), path
        for service in ("citus-coordinator", "citus-worker1", "citus-worker3"):
            assert part not in main_cluster.docker("logs", main_cluster.container(service)).text
    lines = (main_cluster.root / "generated/journal.jsonl").read_text().splitlines()
    assert {"roles-create"} <= {json.loads(line)["operation"] for line in lines}


def test_a_directory_that_was_copied_without_the_password_gets_it_again(main_cluster: GeneratedCluster) -> None:
    kept = main_cluster.root / "generated/secrets/roles/app_password"
    before = kept.read_bytes()
    kept.unlink()
    assert listed(main_cluster)["app"]["password_file"] is None
    main_cluster.cli("roles", "create", "app")
    assert kept.read_bytes() == before


def watching(cluster: GeneratedCluster, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "citus_cluster", "status", "--watch", *options],
        cwd=cluster.root,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(cluster.root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_status_is_watched_in_a_pipe(main_cluster: GeneratedCluster, sent: signal.Signals, status: int) -> None:
    watch = watching(main_cluster, "--interval=0.2", "--format=json")
    assert watch.stdout
    try:
        rounds = [json.loads(watch.stdout.readline()) for _ in range(2)]
        watch.send_signal(sent)
        _, told = watch.communicate(timeout=30)
    finally:
        watch.kill()
    assert [one["state"] for one in rounds] == ["ok", "ok"]
    assert rounds[0]["time"] <= rounds[1]["time"]
    assert (watch.returncode, told) == (status, "")


def test_a_watched_status_shows_what_goes_wrong_and_goes_on(main_cluster: GeneratedCluster, tmp_path: Path) -> None:
    watch = watching(main_cluster, "--format=json")
    spec = main_cluster.root / "cluster.yaml"
    before = spec.read_bytes()
    assert watch.stdout
    try:
        assert json.loads(watch.stdout.readline())["state"] == "ok"
        spec.write_text("nonsense: [")
        while "error" not in (found := json.loads(watch.stdout.readline())):
            assert found["state"] == "ok"
        spec.write_bytes(before)
        while "error" in (found := json.loads(watch.stdout.readline())):
            pass
        assert found["state"] == "ok"
    finally:
        spec.write_bytes(before)
        watch.kill()
        watch.communicate()


def test_dropping_keeps_every_table(main_cluster: GeneratedCluster) -> None:
    refused = main_cluster.cli("roles", "drop", "maker", check=False)
    assert refused.status == 1
    assert "table public.items" in refused.err
    assert "--reassign" in refused.err
    planned = main_cluster.cli("roles", "drop", "maker", "--dry-run", "--format=json", check=False)
    assert planned.status == 4
    assert {one["new_owner"] for one in planned.json()["objects"]} == {"owner_of_public"}
    main_cluster.cli("roles", "drop", "maker", "--reassign")
    works(main_cluster, 0, 3)
    for name in ("app", "late"):
        main_cluster.cli("roles", "drop", name)
    assert set(listed(main_cluster)) == {"owner_of_public"}
    assert listed(main_cluster)["owner_of_public"]["problems"] == []
    assert "roles" not in main_cluster.secrets()
    assert main_cluster.sql("SELECT count(*), sum(n) FROM items") == [(ROWS, ROWS * (ROWS + 1) // 2)]
    for number in range(4):
        assert main_cluster.sql("SELECT count(*) FROM pg_dist_authinfo", number) == [(2,)]
    assert "Role app does not exist" in main_cluster.cli("roles", "drop", "app").out
