"""Plans, progress and problems of a rebalance, computed from rows."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from citus_cluster.model.capacity import NodeCapacity, missing_capacity
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.rebalance import (
    NO_REBALANCE,
    Copying,
    Job,
    JobState,
    Move,
    RebalancePlan,
    Sample,
    ShardGroup,
    Task,
    TransferMode,
    build_status,
    estimate,
    last_error,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
ONE, TWO = NodeAddress("one"), NodeAddress("two")
GROUPS = {1: ShardGroup("orders", 2, 100), 2: ShardGroup("orders", 2, 300)}


def move_task(shard_id: int, state: str, **values: object) -> Task:
    return Task(shard_id, state, f"SELECT pg_catalog.citus_move_shard_placement({shard_id},1,2,'auto')", **values)  # type: ignore[arg-type]


def job(state: JobState = JobState.RUNNING, seconds: float = 10) -> Job:
    return Job(7, state, START, None, START + timedelta(seconds=seconds))


def test_bytes_before_and_after_a_plan() -> None:
    plan = RebalancePlan((Move("orders", 1, 40, ONE, TWO), Move("lines", 2, 10, ONE, TWO)), {ONE: 100, TWO: 0})
    assert plan.bytes_after == {ONE: 50, TWO: 50}
    assert plan.size_bytes == 50
    assert json.loads(json.dumps(plan.as_dict()))["nodes"][0] == {
        "node": "one:5432",
        "bytes_before": 100,
        "bytes_after": 50,
    }


def test_rate_and_time_left() -> None:
    samples = [Sample(START, 0), Sample(START + timedelta(seconds=4), 100)]
    assert estimate(samples, 300) == (25.0, 8.0)


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [Sample(START, 5)],
        [Sample(START, 5), Sample(START + timedelta(seconds=9), 5)],
        [Sample(START, 0), Sample(START + timedelta(seconds=0.1), 50)],
    ],
)
def test_no_rate_without_movement_or_time(samples: list[Sample]) -> None:
    assert estimate(samples, 100) == (None, None)


def test_no_time_left_from_the_first_hundredth() -> None:
    samples = [Sample(START, 0), Sample(START + timedelta(seconds=10), 9)]
    assert estimate(samples, 1000) == (0.9, None)
    assert estimate(samples, 900) == (0.9, 990.0)


def test_status_counts_colocated_shards_and_what_is_being_copied() -> None:
    tasks = [move_task(1, "done"), move_task(2, "running", process_id=42)]
    copying = [Copying(42, ONE, TWO, "Copying Data", 50)]
    found = build_status(job(), tasks, GROUPS, copying)
    assert (found.shards_done, found.shards_total) == (2, 4)
    assert (found.bytes_done, found.bytes_total) == (150, 400)
    assert found.rate_bytes_per_s == 15.0
    assert found.time_left_s == pytest.approx(250 / 15)
    assert found.moves[0].phase == "Copying Data"
    assert found.tasks == {"done": 1, "running": 1}
    assert found.problems == ()
    assert json.loads(json.dumps(found.as_dict()))["started_at"] == "2026-01-01T00:00:00+00:00"


def test_a_size_that_nobody_knows_makes_the_sum_unknown() -> None:
    found = build_status(
        job(), [move_task(1, "done"), move_task(9, "runnable")], {**GROUPS, 9: ShardGroup("t", 1, None)}, []
    )
    assert (found.bytes_done, found.bytes_total, found.time_left_s) == (100, None, None)


def test_a_finished_job_has_no_time_left() -> None:
    found = build_status(job(JobState.FINISHED), [move_task(1, "done")], GROUPS, [])
    assert (found.bytes_done, found.rate_bytes_per_s, found.time_left_s) == (100, None, None)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ('ERROR: logical decoding requires "wal_level" >= "logical"', "set wal_level = logical"),
        ("ERROR: all replication slots are in use", "raise max_replication_slots"),
        ("ERROR: connection to the remote node postgres@w3:5432 failed", "see that all nodes run"),
        ("ERROR: something new", "citus-cluster rebalance stop"),
    ],
)
def test_a_retried_task_says_why_how_often_and_what_to_do(message: str, advice: str) -> None:
    task = move_task(1, "runnable", retry_count=3, message=f"{message}\nCONTEXT: while moving", not_before=START)
    (problem,) = build_status(job(), [task], GROUPS, []).problems
    assert problem.startswith("moving shard 1 of orders failed 3 times and is retried, again at 00:00:00 UTC: ")
    assert message.removeprefix("ERROR: ") in problem
    assert advice in problem


def test_the_last_error_of_several_attempts() -> None:
    assert last_error("ERROR: first\nCONTEXT: x\nERROR: second.\nHINT: y") == "second"
    assert last_error(None) == "no message was kept"


def capacity(**values: object) -> NodeCapacity:
    known = {
        "node": "w1",
        "wal_level": "logical",
        "max_worker_processes": 16,
        "background_workers": 3,
        "max_replication_slots": 20,
        "replication_slots": 0,
        "max_wal_senders": 22,
        "wal_senders": 0,
        "max_logical_replication_workers": 8,
    }
    return NodeCapacity(**{**known, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"wal_level": "replica"}, "wal_level is replica"),
        ({"background_workers": 15}, "max_worker_processes"),
        ({"replication_slots": 20}, "max_replication_slots"),
        ({"wal_senders": 22}, "max_wal_senders"),
        ({"max_logical_replication_workers": 1}, "max_logical_replication_workers"),
    ],
)
def test_missing_capacity_names_node_and_setting(values: dict[str, object], word: str) -> None:
    (finding,) = missing_capacity([capacity(), capacity(node="w2", **values)], TransferMode.AUTO)
    assert finding.startswith("w2: ")
    assert word in finding


def test_blocked_writes_need_no_logical_replication() -> None:
    assert missing_capacity([capacity(wal_level="replica")], TransferMode.BLOCK_WRITES) == ()


def test_no_rebalance_is_final() -> None:
    assert NO_REBALANCE.state.is_final
    assert NO_REBALANCE.as_dict()["state"] == "none"
