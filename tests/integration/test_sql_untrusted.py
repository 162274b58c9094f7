"""Real nodes beside a server that wants their password in clear, and a caller whose environment is full of libpq."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_servers import MD5, PASSWORD_IN_CLEAR, TRUST, fake_postgres
from hostile_environment import HOSTILE, ONLY_VARIABLES
from setup_support import ROOT
from sql_servers import COORDINATOR, Servers, encryption_of, register

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("only_newest")]


def run(cluster: Servers, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours with every variable of libpq set to nonsense."""
    dsn = cluster.info(COORDINATOR.host).dsn(masked=False)
    return subprocess.run(
        [sys.executable, *command, f"--dsn={dsn}"],
        env={**os.environ, **HOSTILE, **ONLY_VARIABLES, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_nothing_of_the_environment_reaches_a_server(cluster: Servers) -> None:
    register(cluster)
    done = run(cluster, "-m", "citus_cluster", "rebalance", "status")
    assert (done.returncode, done.stdout) == (0, "No rebalance has run yet.\n"), done.stderr


@pytest.mark.parametrize("method", [PASSWORD_IN_CLEAR, MD5, TRUST])
def test_a_mistyped_worker_is_not_told_the_password(cluster: Servers, method: int, tmp_path: Path) -> None:
    register(cluster)
    with fake_postgres(
        method, cluster.gateway, encryption=encryption_of(cluster.containers[COORDINATOR.host], tmp_path)
    ) as thief:
        done = run(cluster, str(ROOT / "add_worker.py"), f"--host={thief.host}", f"--port={thief.port}")
    assert done.returncode == 1, done.stderr
    assert "was not sent the password" in done.stderr
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
