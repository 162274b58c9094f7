"""100 small shard groups move to a new worker by our command against the same in plain SQL, while rows are written.

Writers update a row of each shard in turn. The stall of a move is the longest wait of a writer for its group.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable
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
    percentile,
    print_table,
    remove_cluster,
    run,
)

_NEW = "citus-worker4"
_TABLES = 4
_SHARDS = 100
_SHARD_ROWS = 850
"""Rows of 1 kB, which with the primary key are 1 MB."""
_WRITERS = 4
_PAUSE_S = 0.01


@dataclass(frozen=True)
class _Moved:
    """One rebalance: the duration of its moves, and the wait of each write, longest first."""

    moves: int
    moving_s: float
    waits_s: tuple[float, ...]

    @property
    def stalls_s(self) -> list[float]:
        """The longest waits, one for each move, in ascending order."""
        return sorted(self.waits_s[: self.moves])


def bench_small_moves() -> None:
    if not docker_answers():
        print("\nSmall moves: skipped, because no Docker engine answers")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        port = free_base_port()
        ports = [f"--port={port}", f"--admin-port={port + 7}"]
        options = ["--workers=4", "--name=bench-moves", *ports, "--services=citus", "--memory=8g"]
        run([*SETUP, *options, f"--output-dir={root}"])
        try:
            run([*CLUSTER, "up", f"--dir={root}"])
            with connect_node(root, port) as connection:
                size_bytes = _load(connection)
                command = partial(run, [*CLUSTER, "rebalance", "start", "--wait", f"--dir={root}"])
                online = partial(run, [*CLUSTER, "rebalance", "start", "--wait", "--online", f"--dir={root}"])
                ours = _measure(connection, partial(connect_node, root, port), command)
                theirs = _measure(connection, partial(connect_node, root, port), partial(_by_sql, root, port))
                slow = _measure(connection, partial(connect_node, root, port), online)
        finally:
            remove_cluster(root)
    _print(size_bytes, theirs, ours, slow)


def _load(connection: psycopg.Connection[Any]) -> int:
    """Fill three workers. Returns the bytes of an average shard."""
    connection.execute("SELECT citus_set_node_property(%s, 5432, 'shouldhaveshards', false)", [_NEW])
    for number in range(_TABLES):
        for statement in (
            f"CREATE TABLE small{number} (id bigint PRIMARY KEY, seen int DEFAULT 0, note text)",
            f"SELECT create_distributed_table('small{number}', 'id', shard_count => {_SHARDS}, "
            "colocate_with => 'none')",
            f"INSERT INTO small{number} SELECT id, 0, repeat(md5(id::text), 32) "
            f"FROM generate_series(1, {_SHARDS * _SHARD_ROWS}) AS id",
        ):
            connection.execute(statement.encode())
    row = connection.execute("SELECT avg(size)::bigint FROM citus_shard_sizes()").fetchone()
    return int(row[0]) if row else 0


def _by_sql(root: Path, port: int) -> None:
    with connect_node(root, port) as connection:
        connection.execute("SELECT citus_rebalance_start()")
        connection.execute("SELECT citus_rebalance_wait()")


def _measure(
    connection: psycopg.Connection[Any],
    connect: Callable[[], psycopg.Connection[Any]],
    rebalance: Callable[[], object],
) -> _Moved:
    """Measure one rebalance while rows are written, and empty the new worker again."""
    connection.execute("SELECT citus_set_node_property(%s, 5432, 'shouldhaveshards', true)", [_NEW])
    rows: list[tuple[int, int]] = [
        (number, int(row[0]))
        for number in range(_TABLES)
        for row in connection.execute(
            f"SELECT min(id) FROM small{number} "
            f"GROUP BY get_shard_id_for_distribution_column('small{number}', id)".encode()
        )
    ]
    waits_s: list[float] = []
    over = threading.Event()

    def write(part: list[tuple[int, int]]) -> None:
        with connect() as writer:
            for number, key in itertools.cycle(part):
                if over.is_set():
                    return
                started = time.perf_counter()
                writer.execute(f"UPDATE small{number} SET seen = seen + 1 WHERE id = %s".encode(), [key])
                waits_s.append(time.perf_counter() - started)
                time.sleep(_PAUSE_S)

    writers = [threading.Thread(target=write, args=(rows[number::_WRITERS],)) for number in range(_WRITERS)]
    for writer in writers:
        writer.start()
    try:
        rebalance()
    finally:
        over.set()
        for writer in writers:
            writer.join()
    job = "SELECT started_at, finished_at FROM pg_dist_background_job ORDER BY job_id DESC LIMIT 1"
    row = connection.execute(job).fetchone()
    on_new = "SELECT count(*) FROM citus_shards WHERE nodename = %s"
    moved = connection.execute(on_new, [_NEW]).fetchone()
    assert row and moved
    connection.execute("SELECT citus_drain_node(%s, 5432, 'block_writes')", [_NEW])
    connection.execute("CALL citus_cleanup_orphaned_resources()")
    return _Moved(int(moved[0]), (row[1] - row[0]).total_seconds(), tuple(sorted(waits_s, reverse=True)))


def _print(size_bytes: int, theirs: _Moved, ours: _Moved, online: _Moved) -> None:
    rows = []
    for what, one in (
        ("citus_rebalance_start()", theirs),
        ("rebalance start", ours),
        ("rebalance start --online", online),
    ):
        stalls_s, waits_s = one.stalls_s, sorted(one.waits_s)
        rows.append(
            (
                what,
                one.moves,
                f"{one.moving_s:.1f}",
                f"{one.moving_s / one.moves:.2f}",
                f"{(theirs.moving_s / theirs.moves) / (one.moving_s / one.moves):.1f}",
                len(waits_s),
                f"{percentile(waits_s, 0.99):.2f}",
                f"{median(stalls_s):.2f}",
                f"{percentile(stalls_s, 0.9):.2f}",
                f"{stalls_s[-1]:.2f}",
            )
        )
    print_table(
        f"Groups of {size_bytes / 1e6:.1f} MB to a new worker, written to (goal: 4 times as fast, p99 < 0.5 s)",
        (
            "what",
            "moves",
            "moving s",
            "s per move",
            "times as fast",
            "writes",
            "p99 s",
            "stall: median s",
            "p90 s",
            "longest s",
        ),
        rows,
    )
