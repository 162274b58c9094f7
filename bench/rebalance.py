"""A rebalance from 3 to 4 workers by our command against the same in plain SQL, in turns, and its predicted time left.

1.5 GB in seven tables of three colocation groups; after each run, the fourth worker is drained. Citus starts the moves
at the next check of its maintenance daemon, up to 5 s later; this wait is the same for both, and is subtracted.
"""

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench.measure import (
    CLUSTER,
    SETUP,
    connect_node,
    docker_answers,
    free_base_port,
    median,
    print_table,
    remove_cluster,
    run,
)
from bench.small_moves import bench_small_moves

_RUNS = 3
_UNITS = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_NAME = "bench-rebalance"
_FOURTH = "citus-worker4"
_TENANTS = 5000
_ROWS = 360
_GROUPS = {"tenants": ("orders", "lines"), "users": ("events",), "sensors": ("metrics",)}


@dataclass(frozen=True)
class _Display:
    """The content of one line of progress, and its time (seconds since the epoch)."""

    at: float
    part_done: float
    left_s: float


@dataclass(frozen=True)
class _Rebalance:
    """One rebalance: ``wall_s`` in total, including ``waited_s`` for Citus' daemon and ``moving_s`` for the moves."""

    wall_s: float
    waited_s: float
    moving_s: float
    ended_at: float
    displays: tuple[_Display, ...] = ()

    @property
    def net_s(self) -> float:
        return self.wall_s - self.waited_s

    def errors(self, with_to_go_s: float = 0.1) -> list[float]:
        """The relative error of each time left that was shown after the first tenth of the bytes."""
        late = [(one.left_s, self.ended_at - one.at) for one in self.displays if one.part_done >= 0.1]
        return [abs(shown_s - true_s) / true_s for shown_s, true_s in late if true_s >= with_to_go_s]


def bench_rebalance() -> None:
    if not docker_answers():
        print("\nRebalance: skipped, because no Docker engine answers")
        return
    bench_small_moves()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = free_base_port()
        ports = [f"--port={first}", f"--admin-port={first + 7}"]
        options = ["--workers=4", f"--name={_NAME}", *ports, "--services=citus", "--memory=12g", f"--output-dir={root}"]
        run([*SETUP, *options])
        try:
            run([*CLUSTER, "up", f"--dir={root}"])
            with connect_node(root, first) as connection:
                size_bytes = _load(connection)
                sql = partial(_by_sql, root, first)
                pairs = [
                    (_measure(connection, partial(_by_command, root)), _measure(connection, sql)) for _ in range(_RUNS)
                ]
        finally:
            remove_cluster(root)
    _print(size_bytes, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _load(connection: psycopg.Connection[Any]) -> int:
    """Fill three workers. Returns the bytes of all shards."""
    connection.execute("SELECT citus_set_node_property(%s, 5432, 'shouldhaveshards', false)", [_FOURTH])
    for statement in _statements():
        connection.execute(statement.encode())
    row = connection.execute("SELECT sum(size)::bigint FROM citus_shard_sizes()").fetchone()
    return int(row[0]) if row else 0


def _statements() -> Iterator[str]:
    for seed, tables in _GROUPS.items():
        yield f"CREATE TABLE {seed} (tenant bigint PRIMARY KEY)"
        yield f"SELECT create_distributed_table('{seed}', 'tenant', shard_count => 32, colocate_with => 'none')"
        yield f"INSERT INTO {seed} SELECT generate_series(1, {_TENANTS})"
        for table in tables:
            yield f"CREATE TABLE {table} (tenant bigint, id bigint, note text, PRIMARY KEY (tenant, id))"
            yield f"SELECT create_distributed_table('{table}', 'tenant', colocate_with => '{seed}')"
            rows = f"generate_series(1, {_ROWS // len(tables)}) AS id"
            # The tables are colocated, so each worker generates its own rows.
            yield f"INSERT INTO {table} SELECT tenant, id, repeat(md5(id::text), 6) FROM {seed}, {rows}"


def _measure(
    connection: psycopg.Connection[Any], rebalance: Callable[[], tuple[float, Sequence[_Display]]]
) -> _Rebalance:
    """Measure one rebalance, and empty the fourth worker again."""
    connection.execute("SELECT citus_set_node_property(%s, 5432, 'shouldhaveshards', true)", [_FOURTH])
    connection.execute("CHECKPOINT")
    connection.execute("SELECT run_command_on_workers('CHECKPOINT')")
    started = time.time()
    submitted, displays = rebalance()
    wall_s = time.time() - started
    job = "SELECT started_at, finished_at FROM pg_dist_background_job ORDER BY job_id DESC LIMIT 1"
    row = connection.execute(job).fetchone()
    assert row
    first, last = row[0].timestamp(), row[1].timestamp()
    connection.execute("SELECT citus_drain_node(%s, 5432, 'block_writes')", [_FOURTH])
    connection.execute("CALL citus_cleanup_orphaned_resources()")
    return _Rebalance(wall_s, first - submitted, last - first, last, tuple(displays))


def _by_sql(root: Path, port: int) -> tuple[float, Sequence[_Display]]:
    """Return the time of the request, and the displayed lines, which are none."""
    with connect_node(root, port) as connection:
        connection.execute("SELECT citus_rebalance_start()")
        submitted = time.time()
        connection.execute("SELECT citus_rebalance_wait()")
    return submitted, ()


def _by_command(root: Path) -> tuple[float, Sequence[_Display]]:
    """Return the time of the request, and the displayed lines."""
    submitted = 0.0
    displays: list[_Display] = []

    def note(line: str, at_s: float) -> None:
        nonlocal submitted
        if "rebalance started as job" in line:
            submitted = time.time()
        found = re.search(r", ([\d.]+) (\w+) of ([\d.]+) (\w+),.* (\d+) s left", line)
        if found:
            done, total = float(found[1]) * _UNITS[found[2]], float(found[3]) * _UNITS[found[4]]
            displays.append(_Display(time.time(), done / total, float(found[5])))

    run([*CLUSTER, "rebalance", "start", "--wait", f"--dir={root}"], on_line=note)
    return submitted, displays


def _print(size_bytes: int, ours: Sequence[_Rebalance], theirs: Sequence[_Rebalance]) -> None:
    floor_s = median([one.net_s for one in theirs])
    print_table(
        f"Rebalance of {size_bytes / 1e9:.1f} GB from 3 to 4 workers, median of {_RUNS} (goal: ratio at most 1.0)",
        ("what", "wall s", "waiting for the daemon", "moving", "the rest", "wall without waiting", "ratio"),
        [
            (
                what,
                f"{median([one.wall_s for one in runs]):.1f}",
                f"{median([one.waited_s for one in runs]):.1f}",
                f"{median([one.moving_s for one in runs]):.1f}",
                f"{median([one.net_s - one.moving_s for one in runs]):.2f}",
                f"{median([one.net_s for one in runs]):.1f}",
                f"{median([one.net_s for one in runs]) / floor_s:.2f}",
            )
            for what, runs in (
                ("citus_rebalance_start() and _wait() (floor)", theirs),
                ("rebalance start --wait", ours),
            )
        ],
    )
    every = [error for one in ours for error in one.errors()]
    early = [error for one in ours for error in one.errors(with_to_go_s=5)]
    print_table(
        "Time left, shown after the first tenth of the bytes (goal: within 20 %)",
        ("which", "shown", "median error", "largest", "within 20 %"),
        [
            (
                which,
                len(found),
                f"{median(found):.0%}",
                f"{max(found):.0%}",
                f"{sum(error <= 0.2 for error in found) / len(found):.0%}",
            )
            for which, found in (("all", every), ("with 5 s or more to go", early))
            if found
        ],
    )
