"""Lock waits as a tree."""

from typing import Any

import pytest

from citus_cluster.model.citus.activity import masked
from citus_cluster.model.citus.blockers import global_pid
from citus_cluster.model.citus.locks import Sessions, build_tree
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode

COORDINATOR = RegisteredNode(1, 0, NodeAddress("citus-coordinator"), True, "primary", False)
WORKER = RegisteredNode(2, 1, NodeAddress("citus-worker1"), True, "primary", True)


def session(pid: int, *, origin: int | None = None) -> dict[str, Any]:
    return {
        "pid": pid,
        "origin": str(origin) if origin else None,
        "state": "active",
        "query": f"SELECT {pid}",
        **dict.fromkeys(
            ["role", "database", "application", "client", "kind", "seconds", "transaction_seconds"],
        ),
        **dict.fromkeys(["started_at", "session_started_at", "wait_event"]),
    }


def wait(pid: int, *blockers: int, seconds: float = 1.0) -> dict[str, Any]:
    return {"pid": pid, "blockers": list(blockers), "lock": "ShareLock on transactionid", "seconds": seconds}


def tree_of(sessions: list[dict[str, Any]], waits: list[dict[str, Any]]) -> list[tuple[int, int | None, int | None]]:
    found = Sessions()
    found.add(COORDINATOR, {"sessions": sessions, "waits": waits})
    return [(row.depth, row.parent, row.process_id) for row in build_tree(found)]


def test_those_that_wait_are_below_the_one_that_blocks_them() -> None:
    sessions = [session(pid) for pid in (11, 12, 13, 14, 15)]
    found = tree_of(sessions, [wait(12, 11), wait(13, 12), wait(14, 11)])
    assert found == [(0, None, 11), (1, 1, 12), (2, 2, 13), (1, 1, 14)]


def test_a_session_with_several_blockers_appears_once_and_names_them() -> None:
    found = Sessions()
    found.add(COORDINATOR, {"sessions": [session(pid) for pid in (1, 2, 3)], "waits": [wait(3, 1, 2)]})
    rows = build_tree(found)
    assert [row.process_id for row in rows] == [1, 3, 2]
    assert rows[1].waits_for == (global_pid(1, 1), global_pid(1, 2))
    assert [row.blocks for row in rows] == [1, 0, 1]


def test_many_that_wait_for_each_other_are_shown_in_one_pass() -> None:
    """With each path a branch of its own, a queue of 25 would be 33 million rows."""
    sessions = [session(pid) for pid in range(1, 26)]
    found = tree_of(sessions, [wait(pid, *range(1, pid)) for pid in range(2, 26)])
    assert len(found) == 25


def test_a_deep_queue_needs_no_deep_stack() -> None:
    sessions = [session(pid) for pid in range(1, 3001)]
    found = tree_of(sessions, [wait(pid, pid - 1) for pid in range(2, 3001)])
    assert found[-1] == (2999, 2999, 3000)


def test_a_cycle_is_marked_and_those_behind_it_are_not() -> None:
    found = Sessions()
    waits = [wait(1, 2), wait(2, 3), wait(3, 1), wait(4, 1), wait(6, 5)]
    found.add(COORDINATOR, {"sessions": [session(pid) for pid in range(1, 7)], "waits": waits})
    rows = build_tree(found)
    assert sorted(row.process_id or 0 for row in rows) == [1, 2, 3, 4, 5, 6]
    assert {row.process_id for row in rows if row.in_cycle} == {1, 2, 3}
    assert [row.position for row in rows] == [1, 2, 3, 4, 5, 6]


def test_the_part_that_a_worker_runs_waits_for_its_own_client() -> None:
    found = Sessions()
    found.add(COORDINATOR, {"sessions": [session(21), session(22)], "waits": []})
    parts = [session(7, origin=global_pid(1, 21)), session(8, origin=global_pid(1, 22))]
    found.add(WORKER, {"sessions": parts, "waits": [wait(8, 7, seconds=5)]})
    holder, waiter = build_tree(found)
    assert (holder.process_id, holder.node) == (21, "citus-coordinator:5432")
    assert (waiter.process_id, waiter.waits_on, waiter.seconds) == (22, "citus-worker1:5432", 5)


def test_a_prepared_transaction_and_an_unknown_process_can_block() -> None:
    found = Sessions()
    found.add(COORDINATOR, {"sessions": [session(1), session(2)], "waits": [wait(1, 0), wait(2, 99)]})
    rows = build_tree(found, {"citus-worker9:5432": "it does not answer"})
    assert [(row.state, row.process_id) for row in rows if row.depth == 0] == [
        ("prepared transaction", None),
        ("unknown", 99),
        ("unknown", None),
    ]
    assert rows[-1].problem == "it does not answer"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ALTER ROLE app PASSWORD 'open''door' VALID UNTIL 'x'", "ALTER ROLE app PASSWORD '***' VALID UNTIL 'x'"),
        ("alter role app password E'a\\'b'", "alter role app password '***'"),
        ("CREATE ROLE app LOGIN PASSWORD $$se'cret$$", "CREATE ROLE app LOGIN PASSWORD '***'"),
        ("CREATE ROLE app PASSWORD $a$se$cret$a$ LOGIN", "CREATE ROLE app PASSWORD '***' LOGIN"),
        ("ALTER ROLE app PASSWORD 'cut off her", "ALTER ROLE app PASSWORD '***'"),
        ("ALTER ROLE app PASSWORD NULL", "ALTER ROLE app PASSWORD NULL"),
        ("SELECT dblink('host=x password=open')", "SELECT dblink('host=x password='***'"),
        ("SELECT 1", "SELECT 1"),
    ],
)
def test_passwords_in_statements_are_masked(query: str, expected: str) -> None:
    assert masked(query) == expected
