"""Real nodes beside a server that wants their password in clear, a caller whose environment is full of libpq, and names
that a terminal would obey."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import programs
import psycopg
import pytest
from fake_servers import MD5, PASSWORD_IN_CLEAR, TRUST, fake_postgres
from hostile_environment import HOSTILE, ONLY_VARIABLES
from setup_support import ROOT
from sql_servers import COORDINATOR, FOURTH, NASTY_PASSWORD, WORKERS, Servers, encryption_of, on, register
from waiting import eventually

from citus_cluster.model.citus.nodes import Outcome
from citus_cluster.operations.nodes.checks import troubles
from citus_cluster.operations.nodes.unregistration import registry

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("only_newest")]


def run(cluster: Servers, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours with every variable of libpq set to nonsense."""
    dsn = cluster.info(COORDINATOR.host).dsn(masked=False)
    return programs.run(
        [sys.executable, *command, f"--dsn={dsn}"],
        cwd=ROOT,
        environment={**os.environ, **HOSTILE, **ONLY_VARIABLES, "PYTHONPATH": str(ROOT)},
        timeout_s=60,
    )


def test_nothing_of_the_environment_reaches_a_server(cluster: Servers) -> None:
    register(cluster)
    done = run(cluster, "-m", "citus_cluster", "rebalance", "status")
    assert done.returncode == 0, done.stderr
    # The servers are shared: another test may have moved a shard.
    assert done.stdout.startswith(("No rebalance has run yet.", "Rebalance ")), done.stdout


@pytest.mark.parametrize("method", [PASSWORD_IN_CLEAR, MD5, TRUST])
def test_a_mistyped_worker_is_not_told_the_password(cluster: Servers, method: int, tmp_path: Path) -> None:
    register(cluster)
    with fake_postgres(
        method, cluster.gateway, encryption=encryption_of(cluster.containers[COORDINATOR.host], tmp_path)
    ) as thief:
        done = run(cluster, str(ROOT / "add_worker.py"), f"--host={thief.host}", f"--port={thief.port}")
    assert done.returncode == 1, done.stderr
    assert "the password was not sent" in done.stderr
    assert thief.greetings
    assert thief.loot == b""


@pytest.mark.parametrize("method", [PASSWORD_IN_CLEAR, MD5])
def test_citus_itself_tells_nobody_the_password(cluster: Servers, method: int, tmp_path: Path) -> None:
    register(cluster)
    with fake_postgres(
        method, cluster.gateway, encryption=encryption_of(cluster.containers[COORDINATOR.host], tmp_path)
    ) as thief:
        question = f"SELECT citus_check_connection_to_node('{thief.host}', {thief.port})"
        assert cluster.sql(COORDINATOR.host, question) == [(False,)]
    assert thief.greetings
    assert thief.loot == b""


def log_in_by(cluster: Servers, worker: str, method: str) -> None:
    """Let a server take any client with this method, and wait until it does."""
    rules = f"host all all all {method}\\nlocal all all trust\\n"
    path = cluster.sql(worker, "SHOW hba_file")[0][0]
    status, output = cluster.containers[worker].exec_run(["sh", "-c", f"printf '{rules}' > {path}"])
    assert status == 0, output
    cluster.sql(worker, "SELECT pg_reload_conf()")
    eventually(lambda: trusts(cluster, worker) == (method == "trust"), f"{worker} reads {path}", 30)


def trusts(cluster: Servers, worker: str) -> bool:
    info = cluster.info(worker)
    try:
        with psycopg.connect(host=info.host, port=info.port, user=info.user, dbname=info.database, password="wrong"):
            return True
    except psycopg.OperationalError:
        return False


def test_a_registered_node_may_trust_its_network_and_a_new_one_may_not(cluster: Servers) -> None:
    """A cluster that somebody else made may have ``trust`` or ``cert`` among its nodes."""
    first, second = WORKERS[:2]
    register(cluster, first)
    for worker in (first, second):
        log_in_by(cluster, worker.host, "trust")
    try:
        planned = run(cluster, "-m", "citus_cluster", "rebalance", "plan")
        assert planned.returncode == 0, planned.stderr
        looked = on(cluster, registry)
        assert on(cluster, lambda conn: troubles(conn, looked.nodes)) == ()
        refused = run(cluster, str(ROOT / "add_worker.py"), f"--host={second.host}")
        assert refused.returncode == 1, refused.stderr
        assert "the password was not sent" in refused.stderr
    finally:
        for worker in (first, second):
            log_in_by(cluster, worker.host, "scram-sha-256")


NAME = "x\x1b]52;c;aGk=\x07\u009b31m\u202e\n✓ well [red]r[/]"
SEEN = r"x\x1b]52;c;aGk=\x07\x9b31m\u202e\n✓ well [red]r[/]"


def strings(data: object) -> Iterator[str]:
    """Every string in plain data, a table's without the quotes that PostgreSQL puts around such a name."""
    if isinstance(data, dict):
        data = [*data.values()]
    if isinstance(data, list):
        for one in data:
            yield from strings(one)
    elif isinstance(data, str):
        yield data.strip('"')


def test_names_that_a_terminal_would_obey_are_shown_as_they_are(cluster: Servers) -> None:
    register(cluster, WORKERS[0])
    cluster.sql(
        COORDINATOR.host,
        f'CREATE TABLE "{NAME}" (id int)',
        f"SELECT create_distributed_table('\"{NAME}\"', 'id', shard_count => 2)",
    )
    register(cluster, *WORKERS[:2])
    cluster.sql(COORDINATOR.host, f'CREATE ROLE "{NAME}" LOGIN')
    try:
        for words in (["rebalance", "plan"], ["roles", "list"]):
            done = run(cluster, "-m", "citus_cluster", *words)
            assert SEEN in done.stdout, done.stderr
            assert not {"\x1b", "\x07", "\u009b", "\u202e"} & set(done.stdout + done.stderr)
            assert not done.stdout.count("\n✓")
            data = run(cluster, "-m", "citus_cluster", *words, "--format=json").stdout
            assert NAME in list(strings(json.loads(data)))
            assert not {"\x1b", "\x07", "\u009b", "\u202e"} & set(data)
    finally:
        cluster.sql(COORDINATOR.host, f'DROP ROLE "{NAME}"', f'DROP TABLE "{NAME}"')


def test_the_cr_of_a_password_file_is_no_part_of_the_password(cluster: Servers) -> None:
    """The image's entry point leaves LF off a password file, and keeps the CR before it."""
    with cluster.extra(FOURTH.host, password=NASTY_PASSWORD + "\r"):
        cluster.wait(FOURTH.host)  # connects with the password as every other reader has it
        rows = cluster.sql(FOURTH.host, "SELECT strpos(authinfo, chr(13)) FROM pg_dist_authinfo")
        assert rows == [(0,)]
        assert register(cluster, WORKERS[0], FOURTH)[FOURTH.host].outcome is Outcome.ADDED
        assert NASTY_PASSWORD not in cluster.logs(FOURTH.host)
