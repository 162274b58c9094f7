"""The cost of a worker: ``up`` of 2, 4, 8 and 16 workers in the same memory; and ``status`` with many shards."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import (
    CLUSTER,
    SETUP,
    connect_node,
    docker_answers,
    free_base_port,
    median,
    print_table,
    project_environment,
    remove_cluster,
    resident_mb,
    run,
)

_WORKERS = (2, 4, 8, 16)
_RUNS = 2
_MEMORY = "28g"
_NAME = "bench-scale"
_STEPS = {
    "started": "the containers are started",
    "registered": ":5432 registered",
    "verified": "the cluster is verified",
}
"""The messages of the command at the end of each part of its work."""
_TABLES = 10
_SHARDS = 1000
_STATUS_RUNS = 5


@dataclass(frozen=True)
class _Up:
    """One start: seconds until each of ``_STEPS``, seconds in total, peak memory of the command, memory of the API."""

    steps_s: Mapping[str, float]
    wall_s: float
    peak_mb: float
    api_mb: float


def bench_scale() -> None:
    if not docker_answers():
        print("\nScale: skipped, because no Docker engine answers")
        return
    with tempfile.TemporaryDirectory() as folder:
        _bench_up(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        _bench_status(Path(folder))


def _bench_up(folder: Path) -> None:
    found: dict[int, list[_Up]] = {count: [] for count in _WORKERS}
    for number in range(_RUNS + 1):
        # The first round builds the image and fills the caches.
        for count in _WORKERS if number else _WORKERS[:1]:
            up = _up(folder / f"{number}-{count}", count)
            if number:
                found[count].append(up)
    rows = []
    for before, count in zip((None, *_WORKERS), _WORKERS, strict=False):
        wall_s = _wall(found[count])
        added = "" if before is None else f"{(wall_s - _wall(found[before])) / (count - before):.2f}"
        rows.append(
            (
                count,
                *(f"{median([up.steps_s[step] for up in found[count]]):.1f}" for step in _STEPS),
                f"{wall_s:.1f}",
                added,
                f"{wall_s / _wall(found[_WORKERS[0]]):.2f}",
                f"{median([up.peak_mb for up in found[count]]):.0f}",
                f"{median([up.api_mb for up in found[count]]):.0f}",
            )
        )
    print_table(
        f"Start by number of workers in {_MEMORY}, median of {_RUNS} (goal: linear or better)",
        ("workers", *(f"{step} s" for step in _STEPS), "up in total s", "s for each further worker",
         f"ratio to {_WORKERS[0]}", "command, peak MB", "admin API, resident MB"),
        rows,
    )  # fmt: skip


def _wall(found: Sequence[_Up]) -> float:
    return median([up.wall_s for up in found])


def _setup(root: Path, workers: int, *options: str) -> int:
    """Create a directory. Returns its base port."""
    first = free_base_port(workers + 3)
    ports = [f"--port={first}", f"--admin-port={first + workers + 1}"]
    services = "--services=citus,admin-api"
    run([*SETUP, f"--workers={workers}", f"--name={_NAME}", *ports, services, f"--output-dir={root}", *options])
    return first


def _up(root: Path, workers: int) -> _Up:
    _setup(root, workers, f"--memory={_MEMORY}")
    command = [*CLUSTER, "up", f"--dir={root}"]
    try:
        steps_s: dict[str, float] = {}

        def note(line: str, at_s: float) -> None:
            for step, words in _STEPS.items():
                if words in line:
                    steps_s[step] = at_s

        done = run(command, on_line=note)
        if missing := _STEPS.keys() - steps_s:
            sys.exit(f"{' '.join(command)} did not report: {', '.join(missing)}")
        return _Up(steps_s, done.wall_s, done.peak_mb, resident_mb(f"{_NAME}-admin-api"))
    finally:
        remove_cluster(root)


def _bench_status(root: Path) -> None:
    port = _setup(root, 3, "--memory=12g")
    try:
        run([*CLUSTER, "up", f"--dir={root}"])
        with connect_node(root, port) as connection:
            for number in range(_TABLES):
                connection.execute(f"CREATE TABLE many_{number} (id bigint PRIMARY KEY, note text)".encode())
                connection.execute(
                    "SELECT create_distributed_table(%s, 'id', shard_count => %s, colocate_with => 'none')",
                    [f"many_{number}", _SHARDS],
                )
        status = [*CLUSTER, "status", f"--dir={root}"]
        help_ = [*CLUSTER, "--help"]
        pairs = [(_time(help_), _time(status)) for _ in range(_STATUS_RUNS + 1)][1:]
    finally:
        remove_cluster(root)
    floor_s = median([pair[0] for pair in pairs])
    status_s = median([pair[1] for pair in pairs])
    print_table(
        f"Status of {_TABLES * _SHARDS:,} shards on 3 workers, median of {_STATUS_RUNS} (goal: under 1 s)",
        ("what", "wall s", "ratio"),
        [
            ("citus-cluster --help (floor)", f"{floor_s:.2f}", "1.00"),
            ("citus-cluster status", f"{status_s:.2f}", f"{status_s / floor_s:.2f}"),
        ],
    )


def _time(command: Sequence[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, env=project_environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started
