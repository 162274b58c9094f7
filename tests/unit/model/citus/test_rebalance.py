"""Plans, progress and problems of a rebalance, computed from rows."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from citus_cluster.model.citus.capacity import NodeCapacity, missing_capacity
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import (
    MOVE_BYTES,
    NO_REBALANCE,
    Copying,
    History,
    Job,
    JobState,
    Sample,
    ShardGroup,
    Task,
    build_status,
    byte_rate,
    last_error,
    time_left_s,
)
from citus_cluster.model.citus.rebalance_plan import Move, RebalancePlan, TransferMode

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


def test_the_largest_move_of_each_target_counts_what_moves_together() -> None:
    three = NodeAddress("three")
    moves = [
        Move("orders", 1, 40, ONE, TWO, group=1),
        Move("lines", 2, 10, ONE, TWO, group=1),
        Move("orders", 3, 45, ONE, TWO, group=3),
        Move("lines", 4, 1, ONE, TWO, group=3),
        Move("alone", 5, 7, ONE, three),
        Move("orders", 1, 40, TWO, three, group=1),
    ]
    assert RebalancePlan(tuple(moves), {ONE: 200}).largest_moves == {TWO: 50, three: 40}


MIB = 2**20


def look(seconds: float, *, copied: int = 0, ended: int = 0, work: int = 0) -> Sample:
    return Sample(START + timedelta(seconds=seconds), ended + copied, ended, work)


def history(*looks: Sample) -> History:
    found = History.since(START)
    for one in looks:
        found = found.after(one)
    return found


def left(found: History, work: int, running: int = 0) -> float | None:
    return time_left_s(found, found.recent[-1].at, work, running)


def test_the_rate_is_that_of_the_latest_looks() -> None:
    slow = [look(second, copied=second) for second in range(1, 100)]
    fast = [look(100 + second, copied=100 + 10 * second) for second in range(30)]
    assert byte_rate(history(*slow)) == 1.0
    assert byte_rate(history(*slow, *fast)) == 10.0


@pytest.mark.parametrize("found", [History(), history(), history(look(9)), history(look(0.1, copied=50))])
def test_no_rate_and_no_time_without_movement_or_time(found: History) -> None:
    assert byte_rate(found) is None
    assert time_left_s(found, START, 100, 1) is None


def test_time_is_told_by_the_moves_that_ended() -> None:
    assert left(history(look(2, work=10), look(4, work=20)), 100) == pytest.approx(16)


def test_what_was_before_one_looked_does_not_count() -> None:
    held_up = history(look(500, work=10), look(600, copied=5, work=10))
    joined = held_up.from_here()
    assert (byte_rate(joined), left(joined, 100)) == (None, None)
    ended = joined.after(look(602, copied=0, ended=10, work=25))
    assert left(ended, 100) == pytest.approx(75 / 5)
    assert History().from_here() == History()


@pytest.mark.parametrize("copied", [0, 5, 9])
def test_time_left_counts_down_between_the_ends_of_moves(copied: int) -> None:
    ends = [look(2, work=10), look(4, work=20)]
    assert left(history(*ends, look(5, work=20, copied=copied)), 100, running=10) == pytest.approx(15)


def test_a_move_that_does_not_end_makes_the_time_left_grow() -> None:
    ends = [look(2, work=10), look(4, work=20)]
    stuck = [left(history(*ends, look(second, work=20)), 100, running=10) or 0 for second in (6, 20, 60)]
    assert stuck == [pytest.approx(14), pytest.approx(70 / 30 * 20), pytest.approx(70 / 30 * 60)]


def test_empty_shards_first_do_not_hide_what_large_ones_take() -> None:
    empty = [look(second, work=100 * second) for second in range(1, 11)]
    large = look(30, work=1000, copied=800)
    assert left(history(*empty, large), 11_000, running=200) == pytest.approx(9000 / (2000 / 30))


def test_one_large_move_tells_time_by_its_bytes_once_there_are_enough() -> None:
    assert left(history(look(1, copied=MOVE_BYTES // 2)), 10 * MOVE_BYTES) is None
    assert left(history(look(1, copied=MOVE_BYTES)), 10 * MOVE_BYTES) == pytest.approx(9)


def test_the_time_left_is_never_negative() -> None:
    assert left(history(look(2, work=10), look(9, work=10)), 20, running=10) == 0


def test_what_is_long_past_is_forgotten() -> None:
    slow = [look(10 * end, work=end) for end in range(1, 51)]
    fast = [look(500 + end, work=50 + end) for end in range(1, 31)]
    found = history(*slow, *fast)
    assert max(len(found.recent), len(found.ends)) <= 30
    assert left(found, 90) == pytest.approx(10)


def test_time_before_the_first_move_does_not_count() -> None:
    waiting = Job(7, JobState.SCHEDULED, None, None, START - timedelta(seconds=5))
    tasks = [move_task(1, "runnable"), move_task(2, "runnable")]
    before = build_status(waiting, tasks, GROUPS, [])
    assert before.history == History()
    found = build_status(job(seconds=2), [move_task(1, "done"), move_task(2, "running")], GROUPS, [], before.history)
    assert found.time_left_s == pytest.approx(2, rel=1e-3)


def test_bytes_go_back_when_a_move_is_retried_or_stopped_and_not_while_it_ends() -> None:
    copying = [Copying(42, ONE, TWO, "Copying Data", 200)]
    tasks = [move_task(1, "done"), move_task(2, "running", process_id=42)]
    before = build_status(job(seconds=2), tasks, GROUPS, copying)
    assert build_status(job(seconds=3), tasks, GROUPS, [], before.history).bytes_done == 300
    retried = [tasks[0], move_task(2, "running", process_id=43, retry_count=1)]
    assert build_status(job(seconds=3), retried, GROUPS, [], before.history).bytes_done == 100
    stopped = job(JobState.CANCELLED, seconds=3)
    assert build_status(stopped, tasks, GROUPS, [], before.history).bytes_done == 100


def test_status_counts_colocated_shards_and_what_is_being_copied() -> None:
    tasks = [move_task(1, "done"), move_task(2, "running", process_id=42)]
    copying = [Copying(42, ONE, TWO, "Copying Data", 50)]
    found = build_status(job(), tasks, GROUPS, copying)
    assert (found.shards_done, found.shards_total) == (2, 4)
    assert (found.bytes_done, found.bytes_total) == (150, 400)
    assert found.rate_bytes_per_s == 15.0
    assert found.time_left_s == pytest.approx(10, rel=1e-3)
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
        ("ERROR: connection to the remote node postgres@w3:5432 failed", "check that all nodes run"),
        ("ERROR: SSL SYSCALL error: EOF detected", "check that all nodes run"),
        ("ERROR: SSL error: unexpected eof while reading", "check that all nodes run"),
        ("ERROR: Could not fetch disk stats for node: w3-5432", "check that all nodes run"),
        ('ERROR: could not extend file "base/5/1": No space left on device', "free some space on the target's disk"),
        ("ERROR: not enough empty space on node if the shard is moved", "free some space on the target's disk"),
        ("ERROR: something new", "citus-cluster rebalance stop"),
    ],
)
def test_a_retried_task_says_why_how_often_and_what_to_do(message: str, advice: str) -> None:
    task = move_task(1, "runnable", retry_count=3, message=f"{message}\nCONTEXT: while moving", not_before=START)
    (problem,) = build_status(job(), [task], GROUPS, []).problems
    assert problem.startswith("moving shard 1 of orders failed 3 times and is retried at 00:00:00 UTC: ")
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
