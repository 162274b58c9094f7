"""What a repair clears, and what it leaves for a person."""

from datetime import UTC, datetime
from typing import Any

import pytest

from citus_cluster.model.citus.diagnosis import Cause, DiagnosisRow, cause_of_capacity, explain
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.orphans import Kind, OrphanRow, OrphanState
from citus_cluster.model.citus.rebalance import Job, JobState
from citus_cluster.operations.rebalance.diagnosis import Diagnosis
from citus_cluster.operations.rebalance.repair import plan_repair

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUNNING = Job(7, JobState.RUNNING, NOON, None, NOON)
FINISHED = Job(7, JobState.FINISHED, NOON, NOON, NOON)
TROUBLE = DiagnosisRow("task/1", Cause.FULL_DISK, "moving shard 1 failed once and is retried", "free some space")


def orphan(kind: Kind, state: OrphanState = OrphanState.UNRECORDED) -> OrphanRow:
    return OrphanRow(f"worker/{kind.value}", "citus-worker1:5432", kind, f"citus_{kind.value}", state)


def steps_of(**values: Any) -> tuple[str, ...]:
    return plan_repair(Diagnosis(**{"rows": (), **values})).steps


def test_moves_that_wait_are_retried_only_when_no_cause_is_left() -> None:
    assert steps_of(rows=(TROUBLE,), job=RUNNING, waiting=2) == (
        "Retry at once 2 moves that wait for their next attempt in rebalance 7.",
    )
    for name in ("silent/citus-worker1:5432", "requirement/0", "queue"):
        cause = DiagnosisRow(name, Cause.FULL_DISK, "the disk is full", "free some space")
        assert steps_of(rows=(TROUBLE, cause), job=RUNNING, waiting=2) == ()
    assert steps_of(rows=(), job=RUNNING) == ()


def test_what_is_left_for_a_person_is_named_with_its_remedy() -> None:
    (found,) = plan_repair(Diagnosis((TROUBLE,), RUNNING)).findings
    assert (found.message, found.fix) == (TROUBLE.message, TROUBLE.remedy)


def test_objects_without_a_record_are_dropped_in_their_order_and_never_a_table_or_a_role() -> None:
    orphans = tuple(orphan(kind) for kind in (Kind.SHARD, Kind.PUBLICATION, Kind.ROLE, Kind.SLOT, Kind.SUBSCRIPTION))
    assert steps_of(job=FINISHED, orphans=orphans) == (
        "Drop subscription citus_subscription on citus-worker1:5432.",
        "Drop slot citus_slot on citus-worker1:5432.",
        "Drop publication citus_publication on citus-worker1:5432.",
    )


def test_nothing_is_dropped_while_anything_moves() -> None:
    assert steps_of(job=RUNNING, orphans=(orphan(Kind.SLOT),)) == ()
    used = orphan(Kind.SHARD, OrphanState.IN_USE)
    assert steps_of(job=FINISHED, orphans=(orphan(Kind.SLOT), used)) == ()


def test_citus_drops_its_own_leftovers_unless_a_node_is_silent() -> None:
    waiting = (orphan(Kind.SHARD, OrphanState.WAITS),)
    assert steps_of(orphans=waiting) == ("Let Citus drop 1 object of earlier moves.",)
    assert steps_of(orphans=waiting, silent={NodeAddress("citus-worker2"): "It does not answer."}) == ()


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("ERROR: logical decoding requires wal_level >= logical", Cause.WAL_LEVEL),
        ("ERROR: all replication slots are in use", Cause.CAPACITY),
        ("ERROR: not enough empty space on node if the shard is moved", Cause.FULL_DISK),
        ("ERROR: could not extend file: No space left on device", Cause.FULL_DISK),
        ("FATAL: password authentication failed", Cause.PASSWORD),
        ("ERROR: connection to the remote node failed", Cause.CONNECTION),
        ("ERROR: canceling statement due to lock timeout", Cause.BLOCKED),
        ("ERROR: something new", Cause.RETRIES),
    ],
)
def test_the_error_of_a_move_shows_its_cause(message: str, cause: Cause) -> None:
    assert explain(message)[0] is cause
    assert explain(message)[1]


def test_missing_capacity_is_told_apart() -> None:
    assert cause_of_capacity("a: wal_level is replica; set it") is Cause.WAL_LEVEL
    assert cause_of_capacity("a: 3 of 3 background workers are in use; raise it") is Cause.WORKER_PROCESSES
    assert cause_of_capacity("a: all 10 WAL senders are in use; raise it") is Cause.CAPACITY
