"""The status as it is printed: what matters first on a small terminal, and tables that fit into 80 columns."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from citus_cluster.console_cluster import print_status
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.overview import NodeOverview, Overview, TableOverview
from citus_cluster.model.rebalance import JobState, RebalanceStatus, RunningMove
from citus_cluster.operations.status import ServiceStatus, State, Status

HOME, W1, W4 = NodeAddress("citus-coordinator"), NodeAddress("citus-worker1"), NodeAddress("citus-worker14")
COORDINATOR = NodeOverview(HOME, "coordinator", True, False, "17.12", "13.2.2", 2, 16384, reference_count=2)
WORKER = NodeOverview(W1, "worker", True, True, "17.12", "13.2.2", 33, 1010 * 2**20, reference_count=1)
LEAVING = replace(WORKER, address=W4, should_have_shards=False)
MOVE = RunningMove("public.events", 102008, W4, W1, "Catching Up", 2**20, 2**21)
FOUND = Status(
    cluster="citus",
    state=State.DEGRADED,
    services=tuple(
        ServiceStatus(node.address.host, node.address.host, "running", "healthy", None)
        for node in (COORDINATOR, WORKER, LEAVING)
    ),
    overview=Overview(
        (COORDINATOR, WORKER, LEAVING),
        (TableOverview("events", "distributed", "tenant", 32, 2**30, 1),),
        RebalanceStatus(JobState.RUNNING, 3, shards_done=1, shards_total=8, moves=(MOVE,), problems=("a move waits",)),
    ),
    companions=(),
    ring=None,
    not_registered=(),
    not_desired=(),
    problems=("a move waits",),
    advice=("Do this.",),
)


def printed(*, problems_first: bool = False) -> list[str]:
    page = io.StringIO()
    out = Console(file=page, width=80, highlight=False, soft_wrap=True)
    print_status(FOUND, out, problems_first=problems_first)
    return [line.rstrip() for line in page.getvalue().splitlines()]


def test_the_rebalance_and_the_problems_come_first_where_the_end_may_be_cut_off() -> None:
    lines = printed(problems_first=True)
    assert lines[0] == "Cluster citus: degraded"
    assert lines[1].startswith("Rebalance 3 running: 1 of 8 shards")
    assert lines.index("! a move waits") < lines.index("Do this.") < lines.index("Services")


def test_otherwise_they_come_last_and_once() -> None:
    lines = printed()
    assert lines.count("! a move waits") == 1
    assert lines[-2:] == ["! a move waits", "Do this."]


def test_no_row_is_folded_at_80_columns() -> None:
    lines = printed()
    nodes = lines[lines.index("Nodes") + 1 : lines.index("Tables")]
    assert [line.split() for line in nodes] == [
        ["node", "role", "Citus", "/", "PG", "state", "shards", "size"],
        ["citus-coordinator:5432", "coordinator", "13.2.2", "/", "17.12", "active", "0", "16.0", "kB"],
        ["citus-worker1:5432", "worker", "13.2.2", "/", "17.12", "active", "32", "1010.0", "MB"],
        ["citus-worker14:5432", "worker", "13.2.2", "/", "17.12", "draining", "32", "1010.0", "MB"],
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("node", "condition"),
    [
        (COORDINATOR, "active"),
        (WORKER, "active"),
        (LEAVING, "draining"),
        (replace(LEAVING, shard_count=1), "drained"),
        (replace(LEAVING, is_active=False), "disabled"),
        (replace(LEAVING, role="worker secondary"), "active"),
    ],
)
def test_a_nodes_condition_in_one_word(node: NodeOverview, condition: str) -> None:
    assert node.condition == condition
    assert node.as_dict()["condition"] == condition
