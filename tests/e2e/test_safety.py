"""What must never happen to a user: each case on a real cluster."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import psycopg
import pytest
from generated_cluster import ROOT, GeneratedCluster

pytestmark = pytest.mark.cluster

NASTY = 'it\'s "q" $HOME ${x} #1 \\n %s :name @/? 密码 ü  '


def test_a_plain_compose_up_registers_every_worker(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=3")
    cluster.compose("up", "-d", "--wait")
    assert cluster.active_workers() == ["citus-worker1", "citus-worker2", "citus-worker3"]


def test_without_the_admin_api_up_registers(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=2", "--services=citus", "--up")
    assert cluster.active_workers() == ["citus-worker1", "citus-worker2"]


def test_a_coordinator_alone_holds_the_shards_and_gives_them_away_later(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=0", "--services=citus", "--up")
    cluster.sql("CREATE TABLE t (id bigint PRIMARY KEY)")
    cluster.sql("SELECT create_distributed_table('t', 'id', shard_count => 4)")
    cluster.sql("INSERT INTO t SELECT generate_series(1, 1000)")
    assert cluster.sql("SELECT DISTINCT nodename FROM citus_shards") == [("citus-coordinator",)]
    cluster.setup("--workers=1", "--yes", "--up")
    cluster.cli("rebalance", "start", "--wait")
    assert cluster.sql("SELECT DISTINCT nodename FROM citus_shards") == [("citus-worker1",)]
    assert cluster.sql("SELECT count(*) FROM t") == [(1000,)]


def test_any_printable_password_works_end_to_end(cluster: GeneratedCluster) -> None:
    given = cluster.root / "given-password"
    given.write_text(NASTY + "\n")
    result = cluster.create("--workers=2", f"--password-file={given}", "--up", "--show-secrets")
    assert cluster.password == NASTY
    dsn = next(line.split(None, 1)[1] for line in result.out.splitlines() if line.strip().startswith("DSN"))
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    cluster.docker("restart", cluster.container("citus-coordinator"), cluster.container("citus-worker1"))
    cluster.cli("up")
    cluster.add_worker("--dsn", dsn, "--host", "citus-worker1", "--port", "5432")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn, password="wrong")


def test_the_same_name_in_another_directory_is_refused(make_cluster: Callable[[], GeneratedCluster]) -> None:
    first, second = make_cluster(), make_cluster()
    first.create("--workers=1", "--services=citus", "--up")
    second.name = first.name
    refused = second.create("--workers=1", "--services=citus", check=False)
    assert refused.status == 3
    assert "volume" in refused.err
    assert not (second.root / "generated").exists()
    (second.root / "password").write_text(first.password)
    second.create("--workers=1", "--services=citus", f"--password-file={second.root / 'password'}")
    refused = second.cli("up", check=False)
    assert refused.status == 3
    assert str(first.root) in refused.text
    assert first.sql("SELECT count(*) FROM pg_dist_node") == [(2,)]


def test_leftover_volumes_are_refused_and_nothing_is_written(make_cluster: Callable[[], GeneratedCluster]) -> None:
    first, second = make_cluster(), make_cluster()
    first.create("--workers=1", "--services=citus", "--up")
    first.cli("down")
    second.name = first.name
    refused = second.create("--workers=1", "--services=citus", check=False)
    assert refused.status == 3
    assert f"{first.name}_citus-coordinator-data" in refused.err
    assert list(second.root.iterdir()) == []


def test_a_hand_edited_file_survives(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=1", "--services=citus", "--up")
    edited = cluster.root / "generated/config/coordinator/pg_hba.conf"
    edited.write_text(edited.read_text() + "# mine\n")
    cluster.setup("--workers=2", "--yes", "--up")
    assert edited.read_text().endswith("# mine\n")
    assert cluster.active_workers() == ["citus-worker1", "citus-worker2"]


def test_a_taken_port_is_named_with_its_holder_and_nothing_starts(cluster: GeneratedCluster) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", cluster.base_port))
        holder.listen()
        refused = cluster.create("--workers=1", "--services=citus", "--up", check=False)
    assert refused.status == 3
    assert str(cluster.base_port) in refused.err
    assert "python" in refused.err.lower(), "the process that holds the port is named"
    assert (cluster.root / "docker-compose.yml").exists(), "the files are written"
    assert cluster.docker("ps", "-aq", "--filter", f"name={cluster.name}").out == ""


def test_settings_of_the_user_reach_the_server_and_a_reload_is_enough(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=1", "--services=citus", "--up")
    spec = cluster.root / "cluster.yaml"
    spec.write_text(spec.read_text() + "settings:\n  worker: {work_mem: 5MB}\n")
    started = cluster.docker("inspect", "-f", "{{.State.StartedAt}}", cluster.container("citus-worker1")).out
    result = cluster.setup("--yes", "--up")
    assert "work_mem" in result.out
    assert cluster.sql("SHOW work_mem", number=1) == [("5MB",)]
    assert cluster.docker("inspect", "-f", "{{.State.StartedAt}}", cluster.container("citus-worker1")).out == started


def test_down_with_volumes_wants_the_name(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=1", "--services=citus", "--up")
    refused = cluster.cli("down", "--volumes", check=False)
    assert refused.status == 2
    assert cluster.name in refused.err
    cluster.cli("down", "--volumes", "--confirm", cluster.name)
    assert cluster.docker("volume", "ls", "-q", "--filter", f"name={cluster.name}_").out == ""


def test_an_unreachable_worker_is_told_with_the_next_command(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=1", "--services=citus", "--up")
    refused = cluster.add_worker("--host", "citus-worker2", "--port", "5432", "--timeout", "3", check=False)
    assert refused.status == 1
    assert "--workers=2" in refused.err
    refused = cluster.add_worker("--host=citus-worker9", "--port=5432", "--timeout=3", check=False)
    assert refused.status == 1
    assert "citus-worker9" in refused.err


def test_a_replaced_directory_is_mounted_anew(cluster: GeneratedCluster) -> None:
    """Containers follow the folder that they mounted, not its name: moved away and copied back, they lose it."""
    cluster.create("--workers=1", "--up")
    cluster.run("mv", "generated", "moved")
    cluster.run("cp", "-a", "moved", "generated")
    cluster.run("rm", "-rf", "moved")
    result = cluster.cli("up")
    assert "restarting citus-worker1" in result.err
    assert "restarting admin-api" in result.err
    assert cluster.cli("up", "--format=json").json()["changed"] == []


def test_a_killed_add_worker_is_resumed_by_running_it_again(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=1", "--services=citus", "--up")
    cluster.sql("CREATE TABLE t (id bigint PRIMARY KEY)")
    cluster.sql("SELECT create_distributed_table('t', 'id', shard_count => 6)")
    cluster.setup("--workers=2", "--yes", "--up")
    command = ("--host=citus-worker2", "--rebalance", "--wait")
    with subprocess.Popen(
        [sys.executable, str(ROOT / "add_worker.py"), *command],
        cwd=cluster.root,
        env=cluster.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr
        assert any("started as job" in line for line in run.stderr)
        run.kill()
    assert run.returncode == -signal.SIGKILL, "it had ended before"
    cluster.add_worker(*command)
    assert cluster.cli("rebalance", "status", "--format=json").json()["state"] == "finished"
    shards = cluster.sql("SELECT nodename, count(*) FROM citus_shards GROUP BY 1 ORDER BY 1")
    assert shards == [("citus-worker1", 3), ("citus-worker2", 3)]


def test_a_paused_worker_is_not_called_registered(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=1", "--services=citus", "--up")
    cluster.docker("pause", cluster.container("citus-worker1"))
    refused = cluster.add_worker("--host=citus-worker1", "--timeout=3", check=False)
    assert refused.status == 1
    assert "unpause" in refused.err
    cluster.docker("unpause", cluster.container("citus-worker1"))
    assert cluster.add_worker("--host=citus-worker1").status == 0


def test_variables_of_libpq_lead_nowhere_else(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=1", "--services=citus", "--up")
    cluster.variables = {"PGSERVICE": "x", "PGOPTIONS": "-c foo=1", "PGHOSTADDR": "127.0.0.9"}
    assert cluster.cli("status", "--format=json").json()["state"] == "ok"
