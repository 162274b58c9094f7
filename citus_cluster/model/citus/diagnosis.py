"""Why a rebalance does not continue: the causes, how each is recognised, and what to do about it."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Cause(StrEnum):
    """Why shards do not move."""

    SILENT_NODE = "silent_node"
    WORKER_PROCESSES = "worker_processes"
    WAL_LEVEL = "wal_level"
    CAPACITY = "capacity"
    """Replication slots, WAL senders or logical replication workers are missing."""
    FULL_DISK = "full_disk"
    NO_IDENTITY = "no_identity"
    OWNER_LOGIN = "owner_login"
    BLOCKED = "blocked"
    """Another session holds a lock."""
    LOST_SLOT = "lost_slot"
    ORPHANS = "orphans"
    """Slots, subscriptions or publications of moves that ended are left over."""
    CLEANUP = "cleanup"
    """Citus has not yet dropped what earlier moves left behind."""
    PASSWORD = "password"  # noqa: S105 # a cause
    CONNECTION = "connection"
    RETRIES = "retries"
    """A move failed for another reason."""


_EXPLANATIONS = (
    (Cause.WAL_LEVEL, r"wal_level|logical decoding", "set wal_level = logical on every node and restart the nodes"),
    (
        Cause.NO_IDENTITY,
        r"replica identity|REPLICA IDENTITY",
        "give the table a primary key, or use --mode block_writes",
    ),
    (
        Cause.CAPACITY,
        r"replication slots are in use|max_replication_slots",
        "raise max_replication_slots on the nodes",
    ),
    (Cause.CAPACITY, r"max_wal_senders|requested standby connections", "raise max_wal_senders on the nodes"),
    (
        Cause.CAPACITY,
        r"max_logical_replication_workers|out of logical replication worker slots",
        "raise max_logical_replication_workers",
    ),
    (
        Cause.WORKER_PROCESSES,
        r"max_worker_processes|background worker slots",
        "raise max_worker_processes on the nodes",
    ),
    (
        Cause.FULL_DISK,
        r"No space left|enough (disk |empty )?space|disk space",
        "free some space on the target's disk",
    ),
    (Cause.PASSWORD, r"password|fe_sendauth", "add the role's row to pg_dist_authinfo on every node"),
    (
        Cause.CONNECTION,
        r"could not (connect|translate host name|receive data|send data)|connection to (the remote node|server)"
        r"|connection not open|connection marked as essential|server closed|terminating connection"
        r"|SSL (SYSCALL|error|connection)|Could not fetch disk stats",
        "check that all nodes run (citus-cluster status), and read their logs",
    ),
    (Cause.BLOCKED, r"lock timeout|deadlock", "end the long transaction that holds the lock"),
)
_OTHERWISE = "read the logs of both nodes; to stop the rebalance: citus-cluster rebalance stop"


def explain(message: str) -> tuple[Cause, str]:
    """Return the cause that the error of a move shows, and what to do about it."""
    for cause, pattern, advice in _EXPLANATIONS:
        if re.search(pattern, message):
            return cause, advice
    return Cause.RETRIES, _OTHERWISE


def cause_of_capacity(finding: str) -> Cause:
    """Return the cause of a line of :func:`citus_cluster.model.citus.capacity.missing_capacity`."""
    if "wal_level" in finding:
        return Cause.WAL_LEVEL
    return Cause.WORKER_PROCESSES if "background workers" in finding else Cause.CAPACITY


@dataclass(frozen=True)
class DiagnosisRow:
    """One reason why a rebalance does not continue, or something that an earlier one left behind.

    ``repairs``: ``rebalance repair`` clears it; otherwise ``remedy`` is what a person must do.
    """

    id: str
    cause: Cause
    message: str
    remedy: str | None
    repairs: bool = False
    job_id: int | None = None
    node: str | None = None


@dataclass(frozen=True)
class HistoryRow:
    """One rebalance. ``moves`` counts its moves, each of one or more colocated shards; ``retries`` their repetitions.

    ``size_bytes`` is the present size of the shards that it has moved; None if it is not known.
    """

    job_id: int
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    moves: int
    moves_done: int
    moves_failed: int
    retries: int
    size_bytes: int | None


@dataclass(frozen=True)
class TaskRow:
    """One move of a rebalance, of a shard with its colocated shards.

    ``retries`` is how often it has failed, ``next_try_at`` when it is tried again, ``last_error`` why it failed, and
    ``remedy`` what to do about it. ``phase`` and ``copied_bytes`` are known while it runs.
    """

    task_id: int
    job_id: int
    state: str
    table: str | None
    shard_id: int | None
    shards: int
    size_bytes: int | None
    source: str | None
    target: str | None
    holds_writes: bool
    retries: int
    next_try_at: datetime | None = None
    process_id: int | None = None
    phase: str | None = None
    copied_bytes: int | None = None
    last_error: str | None = None
    remedy: str | None = None
