"""Use cases at their doors: who is asked, what is done without a yes, what is noted; what they drive is faked."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from setup_support import set_up

from citus_cluster.errors import ConsentNeededError, LockedError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.plan.events import ignore
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.change import perform
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.directory import load
from citus_cluster.operations.journaled import Journal, of_command
from citus_cluster.operations.nodes import drain as draining
from citus_cluster.operations.nodes import registration, unregistration
from citus_cluster.operations.nodes import use_cases as nodes
from citus_cluster.operations.nodes.joining import ADD, NewWorker
from citus_cluster.operations.pair import promotion, rebuild
from citus_cluster.operations.pair import use_cases as pair
from citus_cluster.operations.rebalance import control, watch
from citus_cluster.operations.rebalance.changes import START, NewRebalance
from citus_cluster.operations.roles import accounts
from citus_cluster.operations.roles import drop as dropping
from citus_cluster.operations.roles import use_cases as roles
from citus_cluster.operations.start import down, up
from citus_cluster.operations.start import use_cases as start
from citus_cluster.runtime.docker.engine import Engine
from citus_cluster.runtime.postgres import ConnectionInfo
from citus_cluster.runtime.store import files
from citus_cluster.runtime.store.journal import JOURNAL_FILE

INFO = ConnectionInfo(host="nowhere", port=1, user="postgres", database="postgres", password="")
WORKER = NodeAddress("citus-worker1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cluster")
    set_up(root, {"workers": 1, "services": ["citus", "pg14"], "name": "shop"})
    return root


@pytest.fixture
def journal(root: Path) -> Journal:
    (root / JOURNAL_FILE).unlink(missing_ok=True)
    return of_command(root, ())


def noted(root: Path) -> list[dict[str, Any]]:
    file = root / JOURNAL_FILE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch, root: Path) -> Callable[..., list[dict[str, Any]]]:
    """Put a double in the place of an operation; gives with what it was called, each time under the lock."""

    def replace(module: Any, name: str, result: Any = None) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        async def double(*arguments: Any, **named: Any) -> Any:
            with pytest.raises(LockedError), files.locked(root):
                pass
            calls.append(named)
            return result

        monkeypatch.setattr(module, name, double)
        return calls

    return replace


@pytest.mark.parametrize("confirmed", [None, "", "citus"])
def test_volumes_are_removed_only_where_the_name_was_confirmed(
    root: Path, journal: Journal, driven: Callable[..., list[dict[str, Any]]], confirmed: str | None
) -> None:
    calls = driven(down, "down")
    with pytest.raises(UsageError, match="not confirmed; nothing was done"):
        asyncio.run(start.take_down(root, journal, ignore, volumes=True, confirm=lambda name: confirmed))
    assert (calls, noted(root)) == ([], [])


@pytest.mark.parametrize("volumes", [True, False])
def test_who_takes_a_cluster_down_is_asked_for_its_name_only_if_data_go(
    root: Path, journal: Journal, driven: Callable[..., list[dict[str, Any]]], volumes: bool
) -> None:
    calls = driven(down, "down")
    asked: list[str] = []

    def confirm(name: str) -> str:
        asked.append(name)
        return name

    asyncio.run(start.take_down(root, journal, ignore, volumes=volumes, confirm=confirm))
    assert (calls, asked) == ([{"volumes": volumes}], ["shop"] if volumes else [])
    (line,) = noted(root)
    assert (line["operation"], line["parameters"], line["result"]) == ("down", {"volumes": volumes}, "done")


def test_a_start_tells_of_citus_with_its_directory(
    root: Path, journal: Journal, driven: Callable[..., list[dict[str, Any]]]
) -> None:
    result: Any = SimpleNamespace(changed=("citus-worker1",), reloaded=(), verified=True)
    calls = driven(up, "up", result)
    told: list[tuple[Path, Any]] = []
    work = start.start(
        root,
        journal,
        ignore,
        timeout_s=5,
        on_citus=lambda directory, found: told.append((directory.root, found)),
        agree=lambda question: False,
        upgrade_citus=True,
    )
    assert asyncio.run(work) is result
    (call,) = calls
    call["on_citus"](result)
    assert told == [(root, result)]
    assert (call["timeout_s"], call["upgrade_citus"]) == (5, True)
    (line,) = noted(root)
    assert line["outcome"] == {"changed": ["citus-worker1"], "reloaded": [], "verified": True}


Asked = list[tuple[str, tuple[str, ...]]]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "connect", lambda: None)


@pytest.mark.parametrize(
    ("already", "losses", "accept_loss", "is_asked"),
    [
        (False, (), False, True),
        (False, ("rows",), True, True),
        # Refused by the promotion itself, so nobody need be asked.
        (False, ("rows",), False, False),
        (True, (), False, False),
    ],
)
@pytest.mark.parametrize("says", [True, False])
def test_a_server_is_promoted_only_where_somebody_agrees(
    root: Path,
    journal: Journal,
    engine: None,
    driven: Callable[..., list[dict[str, Any]]],
    already: bool,
    losses: tuple[str, ...],
    accept_loss: bool,
    is_asked: bool,
    says: bool,
) -> None:
    plan = SimpleNamespace(target="pg14-replica", already=already, losses=losses, notes=("a note",))
    driven(promotion, "plan_promotion", plan)
    calls = driven(promotion, "promote", plan)
    asked: Asked = []

    def agree(question: str, consequences: tuple[str, ...]) -> bool:
        asked.append((question, consequences))
        return says

    work = pair.promote(root, journal, None, ignore, agree=agree, accept_loss=accept_loss, timeout_s=7)
    if is_asked and not says:
        with pytest.raises(ConsentNeededError, match="Make pg14-replica the primary") as refused:
            asyncio.run(work)
        assert refused.value.details == (*losses, "a note")
    else:
        asyncio.run(work)
    assert len(asked) == is_asked
    assert calls == ([] if is_asked and not says else [{"accept_loss": accept_loss, "timeout_s": 7}])
    (line,) = noted(root)
    assert line["outcome"]["primary"] == "pg14-replica"
    assert line.get("error") == ("consent-needed" if is_asked and not says else None)


@pytest.mark.parametrize(("losses", "is_asked"), [(("rows",), True), ((), False)])
def test_a_replica_is_rebuilt_without_a_question_where_nothing_is_lost(
    root: Path,
    journal: Journal,
    engine: None,
    driven: Callable[..., list[dict[str, Any]]],
    losses: tuple[str, ...],
    is_asked: bool,
) -> None:
    plan: Any = SimpleNamespace(target="pg14-primary", primary="pg14-replica", losses=losses, keep_as=None)
    driven(rebuild, "plan_rebuild", plan)
    found: Any = SimpleNamespace()
    calls = driven(rebuild, "rebuild", found)
    asked: Asked = []

    def agree(question: str, consequences: tuple[str, ...]) -> bool:
        asked.append((question, consequences))
        return True

    work = pair.rebuild_replica(root, journal, None, ignore, agree=agree, discard=True, timeout_s=7)
    assert asyncio.run(work) == (plan, found)
    assert calls == [{"timeout_s": 7}]
    assert asked == ([("Make pg14-primary a fresh replica of pg14-replica?", losses)] if is_asked else [])
    assert noted(root)[0]["parameters"] == {"server": None, "discard": True}


async def on_coordinator(work: Callable[[Any], Any], /) -> Any:
    return await work("the connection")


def test_a_role_is_changed_under_the_lock_and_no_password_is_noted(
    root: Path, journal: Journal, driven: Callable[..., list[dict[str, Any]]]
) -> None:
    credentials: Any = SimpleNamespace(root=root)
    made = SimpleNamespace(changed=("role app made",))
    calls = [driven(accounts, "create", made), driven(accounts, "set_password", made), driven(dropping, "drop", ("x",))]

    async def whole() -> None:
        await roles.create(on_coordinator, journal, credentials, "app", ignore, limits=["connections=5"], given="s3cr")
        await roles.set_password(on_coordinator, journal, credentials, "app", ignore, given="s3cr")
        await roles.drop(on_coordinator, journal, credentials, "app", ignore, named=["view v"], disconnect=True)

    asyncio.run(whole())
    created, changed, dropped = calls
    assert (created[0]["given"], changed[0]["given"], dropped[0]["disconnect"]) == ("s3cr", "s3cr", True)
    assert (created[0]["limits"], dropped[0]["named"], dropped[0]["reassign"]) == (["connections=5"], ["view v"], False)
    lines = noted(root)
    assert [line["operation"] for line in lines] == ["roles-create", "roles-password", "roles-drop"]
    assert [line["outcome"]["changed"] for line in lines] == [["role app made"], ["role app made"], ["x"]]
    assert "s3cr" not in (root / JOURNAL_FILE).read_text()


@pytest.mark.parametrize(("job_id", "wait"), [(7, True), (7, False), (None, True)])
def test_a_rebalance_is_followed_only_where_it_is_awaited(
    root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, job_id: int | None, wait: bool
) -> None:
    steps: list[str] = []

    def step(name: str, result: Any) -> Any:
        async def double(*arguments: Any, **named: Any) -> Any:
            steps.append(name)
            return result

        return double

    ended: Any = SimpleNamespace()
    monkeypatch.setattr(control, "find_moving", step("look", None))
    monkeypatch.setattr(control, "start", step("start", job_id))
    monkeypatch.setattr(watch, "follow", step("follow", ended))
    wanted = NewRebalance(online=True, wait=wait)
    preview = Preview(("Move 3 shards.",))
    found: Any = asyncio.run(perform(START, Cluster(on_coordinator, INFO), journal, wanted, ignore, preview=preview))
    # Running the command again is how it resumes, so one that runs already is followed first.
    assert steps == [*(["look"] if wait else []), "start", *(["follow"] if wait and job_id else [])]
    assert (found.job_id, found.rebalance) == (job_id, ended if wait and job_id else None)
    (line,) = noted(root)
    assert (line["parameters"]["wait"], line["parameters"]["online"]) == (wait, True)
    assert line["outcome"] == {"job_id": job_id}


def test_a_worker_has_the_time_that_is_left_once_there_is_a_connection(
    root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_s = 60.0
    seen: list[dict[str, Any]] = []

    async def slow(work: Callable[[Any], Any], /) -> Any:
        nonlocal left_s
        left_s = 12.0
        return await work("the connection")

    async def add_worker(*arguments: Any, **named: Any) -> NodeResult:
        seen.append(named)
        return NodeResult(WORKER, Outcome.ADDED)

    monkeypatch.setattr(registration, "add_worker", add_worker)
    cluster = Cluster(slow, INFO, patience_s=lambda: left_s, lock_wait_s=3)
    added: Any = asyncio.run(perform(ADD, cluster, journal, NewWorker(WORKER.host), ignore, preview=Preview(())))
    assert seen == [{"timeout_s": 12.0, "wait_for_lock_s": 3, "trust_functions": False}]
    assert (added.node.outcome, added.rebalance) == (Outcome.ADDED, None)
    (line,) = noted(root)
    assert (line["operation"], line["outcome"]) == ("add-worker", {"outcome": "added"})


def test_workers_are_drained_as_the_user_calls_them(
    root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    registry = Registry((RegisteredNode(1, 1, WORKER, True, "primary", True),), None)

    async def read(conn: Any) -> Registry:
        return registry

    async def drain(on_coordinator: Any, workers: Any, options: Any, emit: Any, **named: Any) -> Any:
        seen.append((dict(workers), options, named))
        return SimpleNamespace(done=True, rebalance=None)

    async def undo(conn: Any, workers: Any, emit: Any) -> Any:
        seen.append(dict(workers))

    monkeypatch.setattr(unregistration, "registry", read)
    monkeypatch.setattr(draining, "carry_out", drain)
    monkeypatch.setattr(draining, "undo", undo)
    directory = load(root)

    async def whole() -> None:
        mode = TransferMode.AUTO
        await nodes.drain(on_coordinator, journal, directory, ["citus-worker1"], ignore, mode=mode, wait=True)
        await nodes.undo_drain(on_coordinator, journal, directory, ["citus-worker1"], ignore)

    asyncio.run(whole())
    options = RebalanceOptions(mode=TransferMode.AUTO, drain_only=True)
    assert seen == [({"citus-worker1": WORKER}, options, {"wait": True}), {"citus-worker1": WORKER}]
    assert [line["operation"] for line in noted(root)] == ["nodes-drain", "nodes-drain-undo"]
    assert noted(root)[0]["outcome"] == {"drained": True, "job_id": None}
