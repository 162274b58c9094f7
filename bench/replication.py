"""Replication lag of the PostgreSQL 14 pair under pgbench, asynchronous and synchronous.

The lag in ms is what a reader of the replica observes: the time from the return of a commit on the primary until its
row is visible on the replica. The lag in bytes is the WAL that the replica has not replayed when the commit returns.
pgbench comes from the image postgres:17, and runs in the cluster's network.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.measure import CLUSTER, SETUP, connect, free_base_port, percentile, print_table, remove_cluster, run
from citus_cluster.runtime.postgres import ConnectionInfo

_NAME = "citus-bench-pair"
_IMAGE = "postgres:17"
_SCALE = 20
_CLIENTS = 8
_SECONDS = 30
_PAUSE_S = 0.02


@dataclass(frozen=True)
class _Lag:
    """One sample: milliseconds until a row was visible, and bytes that were not replayed when its commit returned."""

    ms: float
    size_bytes: int


def bench_replication() -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "version"], capture_output=True).returncode:
        print("\nReplication: skipped, because no Docker engine answers")
        return
    if subprocess.run(["docker", "image", "inspect", _IMAGE], capture_output=True).returncode:
        print(f"\nReplication: skipped, because the image {_IMAGE}, which has pgbench, does not exist here")
        return
    rows = []
    for mode in ("async", "sync"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            port = free_base_port(2)
            options = [f"--name={_NAME}", "--services=pg14", f"--pg14-port={port}", f"--pg14-{mode}"]
            run([*SETUP, *options, f"--output-dir={root}"])
            try:
                run([*CLUSTER, "up", f"--dir={root}"])
                rows += _measure(root, port, mode)
            finally:
                remove_cluster(root)
    columns = ("replication", "load", "transactions/s", "p50 ms", "p99 ms", "p50 bytes", "p99 bytes", "samples")
    print_table(f"Replication lag, {_SECONDS} s each; pgbench: {_CLIENTS} clients, scale {_SCALE}", columns, rows)


def _measure(root: Path, port: int, mode: str) -> list[Sequence[object]]:
    password = (root / "generated/secrets/pg14_password").read_text()
    servers = [connect(ConnectionInfo("127.0.0.1", one, "postgres", "testdb", password)) for one in (port, port + 1)]
    primary, replica = servers
    try:
        _pgbench(password, "-i", "-q", "-s", str(_SCALE))
        primary.execute("CREATE TABLE beat (n bigint NOT NULL)")
        primary.execute("INSERT INTO beat VALUES (0)")
        idle = _looks(primary, replica, _SECONDS / 3, 0)
        output: list[str] = []
        load = ("-c", str(_CLIENTS), "-j", "2", "-T", str(_SECONDS), "-n")
        thread = threading.Thread(target=lambda: output.append(_pgbench(password, *load)))
        thread.start()
        time.sleep(2)  # until its connections are open
        busy = _looks(primary, replica, _SECONDS - 4, len(idle))
        thread.join()
    finally:
        for server in servers:
            server.close()
    rate = next(line.split()[2] for line in output[0].splitlines() if line.startswith("tps"))
    return [_row(mode, "none", "-", idle), _row(mode, "pgbench", f"{float(rate):,.0f}", busy)]


def _row(mode: str, load: str, rate: str, looks: Sequence[_Lag]) -> Sequence[object]:
    times = sorted(look.ms for look in looks)
    sizes = sorted(look.size_bytes for look in looks)
    return (
        mode,
        load,
        rate,
        *(f"{percentile(times, part):.2f}" for part in (0.5, 0.99)),
        *(f"{percentile(sizes, part):,.0f}" for part in (0.5, 0.99)),
        len(looks),
    )


def _looks(primary: psycopg.Connection[Any], replica: psycopg.Connection[Any], seconds: float, done: int) -> list[_Lag]:
    """Commit rows repeatedly, and measure when each is visible on the replica."""
    looks: list[_Lag] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        number = done + len(looks) + 1
        primary.execute("UPDATE beat SET n = %s", [number])
        committed = time.perf_counter()
        (written,) = primary.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone() or (0,)
        (replayed,) = replica.execute("SELECT pg_last_wal_replay_lsn() - '0/0'").fetchone() or (0,)
        while replica.execute("SELECT n FROM beat").fetchone() != (number,):
            pass
        looks.append(_Lag(1000 * (time.perf_counter() - committed), max(0, int(written - replayed))))
        time.sleep(_PAUSE_S)
    return looks


def _pgbench(password: str, *arguments: str) -> str:
    command = ["docker", "run", "--rm", "--network", f"{_NAME}_default", "-e", "PGPASSWORD", _IMAGE, "pgbench"]
    done = subprocess.run(
        [*command, "-h", "pg14-primary", "-U", "postgres", *arguments, "testdb"],
        env={**os.environ, "PGPASSWORD": password},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
