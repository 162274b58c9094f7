"""What must never happen to a user: each case on a real cluster.

Tests that leave a cluster as it was share it. The last one that uses ``shared`` takes it down.
"""

import signal
import socket
from collections.abc import Iterator

import psycopg
import pytest
from cluster_support import require_images
from generated_cluster import GeneratedCluster

pytestmark = pytest.mark.cluster

NASTY = 'it\'s "q" $HOME ${x} #1 \\n %s :name @/? 密码 ü  '


@pytest.fixture(scope="module")
def shared(default_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    """Two workers, registered by ``up``."""
    one = GeneratedCluster(tmp_path_factory.mktemp("shared"), default_image)
    try:
        one.create("--workers=2", "--services=citus", "--up")
        yield one
    finally:
        one.remove()


@pytest.fixture(scope="module")
def plain(default_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    """Three workers and the admin API, started by Compose alone."""
    one = GeneratedCluster(tmp_path_factory.mktemp("plain"), default_image)
    try:
        one.create("--workers=3")
        one.compose("up", "-d", "--wait")
        yield one
    finally:
        one.remove()


def test_a_plain_compose_up_registers_every_worker(plain: GeneratedCluster) -> None:
    assert plain.active_workers() == ["citus-worker1", "citus-worker2", "citus-worker3"]


def test_a_replaced_directory_is_mounted_anew(plain: GeneratedCluster) -> None:
    """Containers follow the folder that they mounted, not its name: moved away and copied back, they lose it."""
    plain.run("mv", "generated", "moved")
    plain.run("cp", "-a", "moved", "generated")
    plain.run("rm", "-rf", "moved")
    result = plain.cli("up")
    assert "restarting citus-worker1" in result.err
    assert "restarting admin-api" in result.err
    assert plain.cli("up", "--format=json").json()["changed"] == []


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


def test_down_with_volumes_wants_the_name(cluster: GeneratedCluster) -> None:
    require_images("redis:7")
    cluster.create("--services=redis", "--up")
    refused = cluster.cli("down", "--volumes", check=False)
    assert refused.status == 2
    assert cluster.name in refused.err
    cluster.cli("down", "--volumes", "--confirm", cluster.name)
    assert cluster.docker("volume", "ls", "-q", "--filter", f"name={cluster.name}_").out == ""


def test_without_the_admin_api_up_registers(shared: GeneratedCluster) -> None:
    assert shared.active_workers() == ["citus-worker1", "citus-worker2"]


def test_the_same_name_in_another_directory_is_refused(shared: GeneratedCluster, cluster: GeneratedCluster) -> None:
    cluster.name = shared.name
    refused = cluster.create("--workers=1", "--services=citus", check=False)
    assert refused.status == 3
    assert "volume" in refused.err
    assert not (cluster.root / "generated").exists()
    (cluster.root / "password").write_text(shared.password)
    cluster.create("--workers=1", "--services=citus", f"--password-file={cluster.root / 'password'}")
    try:
        refused = cluster.cli("up", check=False)
    finally:
        (cluster.root / "docker-compose.yml").unlink()  # the fixture must not take the other cluster down
    assert refused.status == 3
    assert str(shared.root) in refused.text
    assert shared.sql("SELECT count(*) FROM pg_dist_node") == [(3,)]


def test_settings_of_the_user_reach_the_server_and_a_reload_is_enough(shared: GeneratedCluster) -> None:
    spec = shared.root / "cluster.yaml"
    spec.write_text(spec.read_text() + "settings:\n  worker: {work_mem: 5MB}\n")
    started = shared.docker("inspect", "-f", "{{.State.StartedAt}}", shared.container("citus-worker1")).out
    result = shared.setup("--yes", "--up")
    assert "work_mem" in result.out
    assert shared.sql("SHOW work_mem", number=1) == [("5MB",)]
    assert shared.docker("inspect", "-f", "{{.State.StartedAt}}", shared.container("citus-worker1")).out == started


def test_an_unreachable_worker_is_told_with_the_next_command(shared: GeneratedCluster) -> None:
    refused = shared.add_worker("--host", "citus-worker3", "--port", "5432", "--timeout", "3", check=False)
    assert refused.status == 1
    assert "--workers=3" in refused.err
    refused = shared.add_worker("--host=citus-worker9", "--port=5432", "--timeout=3", check=False)
    assert refused.status == 1
    assert "citus-worker9" in refused.err


def test_a_killed_add_worker_is_resumed_by_running_it_again(shared: GeneratedCluster) -> None:
    holds_shards = "SELECT citus_set_node_property('citus-worker2', 5432, 'shouldhaveshards', {})"
    shared.sql(holds_shards.format("false"))
    shared.sql("CREATE TABLE t (id bigint PRIMARY KEY)")
    shared.sql("SELECT create_distributed_table('t', 'id', shard_count => 6)")
    shared.sql(holds_shards.format("true"))
    command = ("--host=citus-worker2", "--rebalance", "--wait")
    with shared.running_add_worker(*command) as run:
        assert any("started as job" in line for line in run.err)
    assert run.process.returncode == -signal.SIGKILL, "it had ended before"
    shared.add_worker(*command)
    assert shared.cli("rebalance", "status", "--format=json").json()["state"] == "finished"
    shards = shared.sql("SELECT nodename, count(*) FROM citus_shards GROUP BY 1 ORDER BY 1")
    assert shards == [("citus-worker1", 3), ("citus-worker2", 3)]


def test_a_paused_worker_is_not_called_registered(shared: GeneratedCluster) -> None:
    shared.docker("pause", shared.container("citus-worker1"))
    try:
        refused = shared.add_worker("--host=citus-worker1", "--timeout=3", check=False)
        assert refused.status == 1
        assert "unpause" in refused.err
    finally:
        shared.docker("unpause", shared.container("citus-worker1"))
    assert shared.add_worker("--host=citus-worker1").status == 0


def test_variables_of_libpq_lead_nowhere_else(shared: GeneratedCluster) -> None:
    shared.variables = {"PGSERVICE": "x", "PGOPTIONS": "-c foo=1", "PGHOSTADDR": "127.0.0.9"}
    try:
        assert shared.cli("status", "--format=json").json()["state"] == "ok"
    finally:
        shared.variables = {}


def test_a_hand_edited_file_survives(shared: GeneratedCluster) -> None:
    edited = shared.root / "generated/config/coordinator/pg_hba.conf"
    edited.write_text(edited.read_text() + "# mine\n")
    shared.setup("--workers=3", "--yes", "--up")
    assert edited.read_text().endswith("# mine\n")
    assert shared.active_workers() == ["citus-worker1", "citus-worker2", "citus-worker3"]


def test_leftover_volumes_are_refused_and_nothing_is_written(
    shared: GeneratedCluster, cluster: GeneratedCluster
) -> None:
    shared.cli("down")
    cluster.name = shared.name
    refused = cluster.create("--workers=1", "--services=citus", check=False)
    assert refused.status == 3
    assert f"{shared.name}_citus-coordinator-data" in refused.err
    assert list(cluster.root.iterdir()) == []
