"""The status as it is printed: what matters first on a small terminal, and tables that fit into 80 columns."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from setup_support import set_up

from citus_cluster.console import cluster, screen
from citus_cluster.console.cluster import print_status
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.overview import NodeOverview, Overview, TableOverview
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus, RunningMove
from citus_cluster.model.citus.rebalance_plan import Move, RebalancePlan
from citus_cluster.operations.access import access
from citus_cluster.operations.directory import load
from citus_cluster.operations.start.up import UpResult
from citus_cluster.operations.status.report import ServiceStatus, State, Status
from citus_cluster.runtime.store import journal

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


# How to connect


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cluster")
    set_up(made, {"workers": 1, "services": ["citus", "redis", "admin-api"]})
    return made


def block(root: Path, capsys: pytest.CaptureFixture[str], *, show_secrets: bool) -> list[str]:
    result = UpResult("citus", 1.0, (), (), (), True, (), (), access(load(root)))
    cluster.print_block(result, root, show_secrets=show_secrets)
    return capsys.readouterr().out.splitlines()


def test_the_block_has_a_request_to_the_admin_api_and_says_how_to_see_the_password(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    password = (root / "generated/secrets/superuser_password").read_text()
    masked = block(root, capsys, show_secrets=False)
    token = '-H "Authorization: Bearer $(cat generated/secrets/admin_api_token)"'
    (request,) = [line for line in masked if "admin API" in line]
    assert request.endswith(f"curl {token} http://127.0.0.1:8000/api/v1/nodes/active")
    (dsn,) = [line for line in masked if "postgres://" in line or "postgresql://" in line]
    assert "****" in dsn and "--show-secrets" in dsn
    assert password not in "\n".join(masked)
    (dsn,) = [line for line in block(root, capsys, show_secrets=True) if "postgresql://" in line]
    assert password in dsn and "--show-secrets" not in dsn


def test_the_status_shows_where_each_service_is_and_how_to_connect(root: Path) -> None:
    page = io.StringIO()
    found = replace(FOUND, access=access(load(root)), root=root)
    cluster.print_status(found, Console(file=page, width=80, highlight=False, soft_wrap=True))
    text = page.getvalue()
    assert "127.0.0.1:5434" in text and "127.0.0.1:5435" in text
    assert "Bearer $(cat" in text and "redis-cli" in text
    assert text.index("Connect") < text.index("! a move waits")
    hidden = io.StringIO()
    down = replace(found, state=State.DOWN)
    cluster.print_status(down, Console(file=hidden, width=80, highlight=False, soft_wrap=True))
    assert "Connect" not in hidden.getvalue()


def test_the_journal_gives_its_last_line_of_an_operation(root: Path) -> None:
    assert journal.last(root, {"down"}) is None
    file = root / journal.JOURNAL_FILE
    for operation in ("up", "down", "setup"):
        journal.append(file, {"operation": operation, "arguments": [operation]})
    with file.open("a") as half:
        half.write('{"operation": "do')  # a run that was killed while it wrote
    found = journal.last(root, {"up", "down"})
    assert found and (found["operation"], found["arguments"]) == ("down", ["down"])
    assert screen.pasteable("citus-cluster psql", root).endswith(f"psql --dir {root}")


def test_a_plan_says_which_moves_hold_writes_and_for_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    moves = (Move("small", 1, 2**20, W1, W4), Move("large", 2, 2**30, W1, W4))
    cluster.print_rebalance_plan(RebalancePlan(moves, {}).holding_small())
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("small")).split()[-1] == "held"
    assert next(line for line in lines if line.startswith("large")).split()[-1] == "continue"
    said = "1 small shard group moves with writes held, each usually for less than 0.5 s; 1 larger one moves online."
    assert f"{said} --online moves all of them online." in lines

    cluster.print_rebalance_plan(RebalancePlan(moves, {}))
    assert "writes held" not in capsys.readouterr().out


def test_commands_stand_below_each_other_and_a_service_may_have_none(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = access(load(root))
    two = UpResult("citus", 1.0, (), (), (), True, ("a-long-service-name", "redis"), (), how)
    commands = {"a-long-service-name": "curl", "redis": "redis-cli"}
    cluster.print_companions_block(replace(two, access=replace(how, companions=commands)), root)
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "  a-long-service-name curl",
        "  redis               redis-cli",
    ]
    cluster.print_companions_block(replace(two, access=replace(how, companions={})), root)
    assert capsys.readouterr().out.splitlines()[0] == "a-long-service-name, redis: ready (1.0 s)."
    page = io.StringIO()
    found = replace(FOUND, access=replace(how, companions=commands), root=root)
    cluster.print_status(found, Console(file=page, width=80, highlight=False, soft_wrap=True))
    assert "  redis               redis-cli" in page.getvalue().splitlines()
