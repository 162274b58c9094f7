"""A writer that detects every interruption: it commits every 10 ms in one session that must not end."""

import secrets
import threading
import time
from dataclasses import dataclass, field

import psycopg
from generated_cluster import GeneratedCluster
from waiting import eventually

SLOW_S = 1.0
_PAUSE_S = 0.01


@dataclass
class _Session:
    """The commits of one session: the beginning and end of each, and the error that ended the session, if any."""

    commits: list[tuple[float, float]] = field(default_factory=list)
    failure: str | None = None


class CommitWriter:
    """Commits rows of a distributed table and, as a control, rows of a local table on the coordinator.

    A busy machine or a slow disk slows both down; a node that is down or holds a lock slows down only the first.
    """

    def __init__(self, cluster: GeneratedCluster) -> None:
        self._cluster = cluster
        self._tables = [f"{kind}_{secrets.token_hex(3)}" for kind in ("spread", "control")]
        self._stop = threading.Event()
        self._sessions = [_Session(), _Session()]
        self._threads = [
            threading.Thread(target=self._write, args=one) for one in zip(self._tables, self._sessions, strict=True)
        ]

    def __enter__(self) -> "CommitWriter":
        for table in self._tables:
            self._cluster.sql(f"CREATE TABLE {table} (id bigint PRIMARY KEY)")
        options = "shard_count => 8, colocate_with => 'none'"
        self._cluster.sql(f"SELECT create_distributed_table('{self._tables[0]}', 'id', {options})")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for table in self._tables:
            self._cluster.sql(f"DROP TABLE {table}")

    @property
    def failures(self) -> list[str]:
        return [one.failure for one in self._sessions if one.failure]

    @property
    def longest_s(self) -> float:
        return max(ended - began for began, ended in self._sessions[0].commits)

    @property
    def slow(self) -> list[float]:
        """Return the durations of commits that were slow while those of the control were not."""
        written, control = ([*one.commits] for one in self._sessions)
        late = [(began, ended) for began, ended in control if ended - began > SLOW_S / 4]
        return [
            ended - began
            for began, ended in written
            if ended - began > SLOW_S and not any(one[0] < ended and began < one[1] for one in late)
        ]

    def goes_on(self) -> None:
        """Wait until more rows are committed."""
        before = [len(one.commits) for one in self._sessions]
        eventually(
            lambda: all(len(one.commits) > count + 20 for one, count in zip(self._sessions, before, strict=True)),
            f"the writer goes on: {self.failures}",
        )

    def _write(self, table: str, session: _Session) -> None:
        number = 0
        try:
            with self._cluster.connect() as conn:
                while not self._stop.is_set():
                    number += 1
                    began = time.monotonic()
                    conn.execute(f"INSERT INTO {table} VALUES ({number})".encode())
                    session.commits.append((began, time.monotonic()))
                    time.sleep(_PAUSE_S)
        except psycopg.Error as error:
            session.failure = f"{table}: {error}"
