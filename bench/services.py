"""The time from ``up`` until each service of the whole stack is ready; the lower bound is the plain image of each
service alone, until it answers on its published port."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg

from bench.measure import SETUP, free_base_port, median, print_table, remove_cluster, run
from citus_cluster.model.components.cassandra import OPTIONS
from citus_cluster.model.images import DEFAULT_CASSANDRA_IMAGE, DEFAULT_PG14_IMAGE, DEFAULT_REDIS_IMAGE
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.operations.directory import load
from citus_cluster.operations.start.up import up
from citus_cluster.runtime.ports import answers

_RUNS = 3
_WORKERS = 3
_NAME = "citus-bench"
_PATIENCE_S = 600


def bench_services() -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "version"], capture_output=True).returncode:
        print("\nServices: skipped, because no Docker engine answers")
        return
    port = free_base_port()
    floors = {
        "pg14": _bare(DEFAULT_PG14_IMAGE, 5432, port, _takes_sql, "-e", "POSTGRES_PASSWORD=bench"),
        "redis": _bare(DEFAULT_REDIS_IMAGE, 6379, port, lambda p: answers("127.0.0.1", p, b"PING\r\n", timeout_s=2)),
        "cassandra": _bare(
            DEFAULT_CASSANDRA_IMAGE, 9042, port, lambda p: answers("127.0.0.1", p, OPTIONS, timeout_s=2),
            "-e", "MAX_HEAP_SIZE=512M", "-e", "HEAP_NEWSIZE=128M", "--entrypoint", "bash",
            # The entry point of the image edits settings that are read-only in some builds.
            command=("-c", "chmod u+w /etc/cassandra/*; exec docker-entrypoint.sh cassandra -f"),
        ),
    }  # fmt: skip
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        flags = ("--port", "--admin-port", "--pg14-port", "--redis-port", "--cassandra-port")
        ports = [f"{flag}={port + offset}" for flag, offset in zip(flags, (0, 7, 10, 12, 13), strict=True)]
        size = ["--memory=7840", "--cpus=2"]
        run([*SETUP, f"--workers={_WORKERS}", f"--name={_NAME}", *ports, *size, f"--output-dir={root}"])
        try:
            for _ in range(_RUNS + 1):  # the first run builds the image, and fills the caches
                remove_cluster(root)
                runs.append(asyncio.run(_start(root)))
        finally:
            remove_cluster(root)
    rows = []
    for step in runs[0]:
        seconds = median([one[step] for one in runs[1:]])
        floor = floors.get(step.partition("-")[0])
        rows.append(
            (step, f"{seconds:.1f}", f"{floor:.1f}" if floor else "", f"{seconds / floor:.2f}" if floor else "")
        )
    print_table(
        f"From up to ready, the whole stack with {_WORKERS} workers, median of {_RUNS}",
        ("service", "s", "its image without the stack, s (floor)", "ratio"),
        rows,
    )


async def _start(root: Path) -> dict[str, float]:
    """Start the cluster. Returns the seconds from the first container until each service was ready."""
    started = time.perf_counter()
    seconds: dict[str, float] = {}

    def emit(event: Event) -> None:
        if event.kind is EventKind.DONE and (event.step.startswith("ready:") or event.step == "verify"):
            name = event.step.removeprefix("ready:")
            seconds["Citus, registered and verified" if name == "verify" else name] = time.perf_counter() - started

    await up(load(root), emit, timeout_s=_PATIENCE_S)
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def _bare(
    image: str, inside: int, port: int, ready: Callable[[int], bool], *options: str, command: Sequence[str] = ()
) -> float:
    """Run a single image. Returns the seconds until it is ready."""
    with _container("docker", "run", "-d", "-p", f"127.0.0.1:{port}:{inside}", *options, image, *command) as made:
        started = time.perf_counter()
        while not ready(port):
            if time.perf_counter() - started > _PATIENCE_S:
                sys.exit(f"{image} did not become ready within {_PATIENCE_S} s")
            if not subprocess.run(["docker", "ps", "-q", "--filter", f"id={made}"], capture_output=True).stdout:
                sys.exit(f"{image} ended instead of becoming ready")
            time.sleep(0.1)
        return time.perf_counter() - started


@contextlib.contextmanager
def _container(*command: str) -> Iterator[str]:
    made = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    try:
        yield made
    finally:
        subprocess.run(["docker", "rm", "-f", "-v", made], capture_output=True, check=True)


def _takes_sql(port: int) -> bool:
    try:
        with psycopg.connect(host="127.0.0.1", port=port, user="postgres", password="bench", connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False
