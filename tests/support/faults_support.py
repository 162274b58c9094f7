"""Faults on a real cluster: commands killed at each event, and a writer that records the acknowledged rows."""

import contextlib
import os
import random
import re
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from generated_cluster import ROOT, GeneratedCluster
from waiting import eventually

_MOST_EVENTS = 120
# Without a pause, the writers would use two processors completely, and other work would wait.
_PAUSE_S = 0.02
_NUMBER = re.compile(r"(?<![a-z0-9-])\d+(\.\d+)?")


def killed_at_every_event(cluster: GeneratedCluster, *command: str, with_children: bool) -> list[str]:
    """Kill a command at each event that it reports, and run it again until it ends normally.

    Each run is killed at the first event at which no earlier run was killed. So the command determines the points,
    and each of them occurs in the state that belongs to it. The children of the command are not killed, so Compose
    continues during the next run. ``command`` is one of our scripts or a subcommand of citus-cluster. Returns the
    events in order.
    """
    script = command[0].endswith(".py")
    program = [str(ROOT / command[0]), *command[1:]] if script else ["-m", "citus_cluster", *command]
    events: list[str] = []
    while len(events) < _MOST_EVENTS:
        said = []
        with cluster.running(sys.executable, *program) as run:
            for line in run.err:
                said.append(line)
                event = _NUMBER.sub("#", line.strip())
                if event not in events:
                    events.append(event)
                    # It may have ended just after it reported the event.
                    with contextlib.suppress(ProcessLookupError):
                        (os.killpg if with_children else os.kill)(run.process.pid, signal.SIGKILL)
                    break
            else:
                assert run.process.wait() == 0, "".join(said)
                return events
    raise AssertionError(f"{_MOST_EVENTS} events and no end: {events[-10:]}")


@dataclass
class _Counted:
    """The rows of one thread of the writer; a row's id is in ``tried`` before the row is sent."""

    tried: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    failures: int = 0


class CountingWriter:
    """Writes rows from several threads despite faults of the servers, and records which were acknowledged.

    Every second transaction writes a pair of rows, usually to two nodes: in the end, both rows exist, or neither.
    """

    def __init__(self, cluster: GeneratedCluster, threads: int = 3) -> None:
        self._cluster = cluster
        self._table = f"ledger_{secrets.token_hex(3)}"
        self._stop = threading.Event()
        self._counts = [_Counted() for _ in range(threads)]
        self._threads = [threading.Thread(target=self._write, args=(n, c)) for n, c in enumerate(self._counts)]

    def __enter__(self) -> "CountingWriter":
        self._cluster.sql(f"CREATE TABLE {self._table} (id bigint PRIMARY KEY, payload bigint NOT NULL)")
        self._cluster.sql(f"SELECT create_distributed_table('{self._table}', 'id', shard_count => 6)")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def acknowledged(self) -> int:
        return sum(len(count.acknowledged) for count in self._counts)

    @property
    def failures(self) -> int:
        return sum(count.failures for count in self._counts)

    def goes_on(self) -> None:
        """Wait until more rows are acknowledged."""
        before = self.acknowledged
        eventually(lambda: self.acknowledged > before + 20, "the writer goes on")

    def fails(self) -> None:
        """Wait until the writer detects a fault."""
        before = self.failures
        eventually(lambda: self.failures > before, "the writer notices")

    def _write(self, number: int, count: _Counted) -> None:
        first, turn = (number + 1) * 10**9, 0
        while not self._stop.is_set():
            try:
                with self._connect() as conn:
                    while not self._stop.is_set():
                        turn += 1
                        ids = {first + 2 * turn, first + 2 * turn + turn % 2}
                        count.tried |= ids
                        values = ", ".join(f"({one}, {_payload(one)})" for one in sorted(ids))
                        conn.execute(f"INSERT INTO {self._table} VALUES {values}".encode())
                        count.acknowledged |= ids
                        time.sleep(_PAUSE_S)
            except psycopg.Error:
                count.failures += 1
                time.sleep(0.1)

    def _connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        return psycopg.connect(
            host="127.0.0.1",
            port=self._cluster.base_port,
            user=self._cluster.user,
            password=self._cluster.password,
            dbname=self._cluster.database,
            autocommit=True,
            connect_timeout=5,
            options="-c statement_timeout=10000",
        )

    def check(self, workers: Sequence[int]) -> None:
        """Check, after the writer has stopped, that no acknowledged row is lost, and that each existing row was sent.

        ``workers`` are the numbers of the workers whose prepared transactions must be settled first.
        """
        settle(self._cluster, workers)
        found = dict(self._cluster.sql(f"SELECT id, payload FROM {self._table}"))
        tried = set().union(*(count.tried for count in self._counts))
        acknowledged = set().union(*(count.acknowledged for count in self._counts))
        assert not acknowledged - found.keys(), f"{len(acknowledged - found.keys())} acknowledged rows are lost"
        assert not found.keys() - tried, "rows that nobody wrote"
        assert found == {one: _payload(one) for one in found}
        halves = [one for one in tried if one % 2 and (one in found) != (one - 1 in found)]
        assert not halves, f"half a transaction: {halves[:5]}"
        checksum = self._cluster.sql(f"SELECT count(*), sum(id # payload) FROM {self._table}")
        assert checksum == [(len(found), sum(one ^ _payload(one) for one in found))]


def _payload(row_id: int) -> int:
    return random.Random(row_id).getrandbits(40)


def shard_tables(cluster: GeneratedCluster, table: str, number: int) -> list[str]:
    """Return the tables on a worker that are, or were, shards of ``table``; by default, Citus hides them."""
    with cluster.connect(number) as conn:
        conn.execute("SET citus.override_table_visibility = off")
        found = conn.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ %s", [f"^{table}_\\d+$"])
        return sorted(str(row[0]) for row in found)


def settle(cluster: GeneratedCluster, workers: Sequence[int]) -> None:
    """Wait until no transaction is prepared and undecided on any worker: Citus finishes them after a crash."""

    def settled() -> bool:
        cluster.sql("SELECT recover_prepared_transactions()")
        return all(cluster.sql("SELECT count(*) FROM pg_prepared_xacts", number) == [(0,)] for number in workers)

    eventually(settled, "prepared transactions are finished")


def drop_orphans(cluster: GeneratedCluster) -> None:
    """Let Citus drop the leftovers of moves, and wait until there are none; its daemon does this every 15 s."""

    def nothing_left() -> bool:
        cluster.sql("CALL citus_cleanup_orphaned_resources()")
        return cluster.sql("SELECT count(*) FROM pg_dist_cleanup") == [(0,)]

    eventually(nothing_left, "moved shards are dropped", 90)
