"""The loop that keeps desired workers registered: when it looks, what it keeps, and what it says."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from api_support import ApiFiles
from fake_coordinator import ADDRESS, Clock, FakeCoordinator, in_place

from admin_api import reconciler as reconciler_module
from admin_api.configuration import Configuration
from admin_api.reconciler import Reconciler, Registration
from admin_api.settings import APPLICATION_NAME
from citus_cluster.errors import RoleError, UnreachableError
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.disks import Disk

ONE, TWO = NodeAddress("citus-worker1"), NodeAddress("citus-worker2")
WHOLE_DISK_BYTES = 10**12


@pytest.fixture
def files(tmp_path: Path) -> ApiFiles:
    return ApiFiles.of_cluster(tmp_path, ADDRESS)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCoordinator]:
    monkeypatch.setattr(reconciler_module, "disk_usage", lambda path: SimpleNamespace(total=WHOLE_DISK_BYTES))
    with in_place(monkeypatch) as fake:
        yield fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reconciler_module, "time", clock)
    return clock


Act = Callable[[Reconciler], Coroutine[Any, Any, None]]
Run = Callable[..., None]


@pytest.fixture
def run(files: ApiFiles, fake: FakeCoordinator) -> Run:
    """Run a scenario beside the loop, whose looks follow each other at once unless ``changes`` say otherwise."""

    def scenario(act: Act, **changes: object) -> None:
        settings = files.settings(**({"busy_interval_s": 0.001, "idle_interval_s": 0.001} | changes))

        async def whole() -> None:
            reconciler = Reconciler(settings, Configuration(settings))
            loop = asyncio.create_task(reconciler.run())
            try:
                await act(reconciler)
            finally:
                loop.cancel()
                await asyncio.wait({loop})

        asyncio.run(asyncio.wait_for(whole(), 30))

    return scenario


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for as long as the scenario may last."""
    while not is_so():  # noqa: ASYNC110 - what changes has no event
        await asyncio.sleep(0.001)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "admin_api.reconciler"]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "admin_api.reconciler")


def test_every_desired_worker_is_asked_for_and_another_one_first_at_each_look(fake: FakeCoordinator, run: Run) -> None:
    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.asked_for) > 3)

    run(act, reconcile_timeout_s=11, lock_timeout_s=12, connect_timeout_s=13)
    assert fake.asked_for[:4] == [(ONE, TWO), (TWO, ONE), (ONE, TWO), (TWO, ONE)]
    assert fake.asked_with[0] == {
        "coordinator": NodeAddress("citus-coordinator"),
        "timeout_s": 11,
        "wait_for_lock_s": 12,
    }
    assert [(timeout_s, name) for _, timeout_s, name in fake.dialled[:2]] == [(13, APPLICATION_NAME)] * 2
    assert all(connection.closed for connection in fake.connections)


def test_what_becomes_of_each_worker_is_kept_and_said_once(
    fake: FakeCoordinator, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    fake.registered = {
        ONE: NodeResult(ONE, Outcome.PENDING, "it does not answer"),
        TWO: NodeResult(TWO, Outcome.ADDED),
    }

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.asked_for) > 2)
        assert reconciler.registration.sort((ONE, TWO)) == ([fake.registered[TWO]], [fake.registered[ONE]], [])
        # Two words for a worker that is registered are no news.
        fake.registered[TWO] = NodeResult(TWO, Outcome.ALREADY)
        fake.registered[ONE] = NodeResult(ONE, Outcome.WITHDRAWN, "an operator removed it")
        await until(lambda: bool(reconciler.registration.sort((ONE, TWO))[2]))
        before = len(fake.asked_for)
        await until(lambda: len(fake.asked_for) > before + 1)

    run(act)
    assert said(caplog) == [
        ("WARNING", "worker citus-worker1:5432: pending (it does not answer)"),
        ("INFO", "worker citus-worker2:5432: added"),
        ("INFO", "worker citus-worker1:5432: withdrawn (an operator removed it)"),
    ]


def test_what_it_registers_is_noted_once(fake: FakeCoordinator, run: Run, files: ApiFiles) -> None:
    fake.registered = {ONE: NodeResult(ONE, Outcome.PENDING, "it does not answer"), TWO: NodeResult(TWO, Outcome.ADDED)}

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: bool(files.journal()))
        fake.registered[TWO] = NodeResult(TWO, Outcome.ALREADY)
        before = len(fake.asked_for)
        await until(lambda: len(fake.asked_for) > before + 1)
        noted = len(files.journal())
        await until(lambda: len(fake.asked_for) > before + 4)
        assert len(files.journal()) == noted

    run(act)
    first = files.journal()[0]
    assert (first["operation"], first["result"], first["by"]) == ("register-workers", "done", {"program": "admin-api"})
    assert first["outcome"] == {"workers": {"citus-worker2:5432": "added"}}


def test_a_worker_that_nobody_looked_at_is_pending() -> None:
    assert Registration({}).sort([ONE]) == ([], [NodeResult(ONE, Outcome.PENDING, "not checked yet")], [])
    (_, (unseen,), _) = Registration({}, "nobody answers").sort([ONE])
    assert unseen.reason == "nobody answers"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_each_outcome_is_of_one_kind(outcome: Outcome) -> None:
    result = NodeResult(ONE, outcome)
    registered, pending, withdrawn = Registration({ONE: result}).sort([ONE])
    kind = {Outcome.PENDING: pending, Outcome.WITHDRAWN: withdrawn}.get(outcome, registered)
    assert kind == [result]
    assert len(registered + pending + withdrawn) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnreachableError("Nobody answers."), "Nobody answers."),
        (psycopg.OperationalError("the connection is lost"), "OperationalError: the connection is lost"),
        (OSError("no route"), "OSError: no route"),
        (TimeoutError(), "TimeoutError:"),
    ],
)
def test_a_look_that_fails_is_told_once_and_so_is_its_end(
    fake: FakeCoordinator, run: Run, caplog: pytest.LogCaptureFixture, error: Exception, reason: str
) -> None:
    fake.registered = {ONE: NodeResult(ONE, Outcome.PENDING, "it waits")}

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: bool(reconciler.registration.results))
        caplog.clear()
        fake.refusal = error
        await until(lambda: reconciler.registration.error is not None)
        before = len(fake.dialled)
        await until(lambda: len(fake.dialled) > before + 1)
        assert reconciler.registration.error == reason
        # What was found before is kept.
        assert reconciler.registration.results[TWO].outcome is Outcome.ALREADY
        fake.refusal = None
        await until(lambda: reconciler.registration.error is None)

    run(act)
    assert said(caplog) == [
        ("WARNING", f"workers cannot be registered now: {reason}"),
        ("INFO", "workers can be registered again"),
    ]


def test_a_defect_does_not_end_the_loop_and_is_logged_once_with_its_place(
    fake: FakeCoordinator, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    fake.defect = ZeroDivisionError("an inner detail")

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.asked_for) > 3)
        assert reconciler.registration.error == "the reconciler failed (ZeroDivisionError)"
        fake.defect = None
        await until(lambda: reconciler.registration.error is None)

    run(act)
    assert said(caplog) == [
        ("ERROR", "the reconciler failed"),
        ("WARNING", "workers cannot be registered now: the reconciler failed (ZeroDivisionError)"),
        ("INFO", "worker citus-worker1:5432: already"),
        ("INFO", "worker citus-worker2:5432: already"),
        ("INFO", "workers can be registered again"),
    ]
    assert [bool(one.exc_info) for one in caplog.records] == [True, False, False, False, False]


def test_nodes_in_maintenance_are_known(fake: FakeCoordinator, run: Run) -> None:
    async def act(reconciler: Reconciler) -> None:
        paused = RegisteredNode(2, 1, NodeAddress("citus-worker1"), True, "primary", False, in_maintenance=True)
        fake.nodes = (paused, replace(paused, address=NodeAddress("citus-worker2"), in_maintenance=False))
        await until(lambda: reconciler.maintenance == ("citus-worker1:5432 is in maintenance",))
        fake.nodes = ()
        await until(lambda: not reconciler.maintenance)

    run(act)


def test_troubles_are_told_once_and_so_is_their_end(
    fake: FakeCoordinator, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.asked_for) > 1)
        caplog.clear()
        fake.troubles = ("citus-worker1:5432 is silent",)
        await until(lambda: reconciler.troubles == fake.troubles)
        before = len(fake.asked_for)
        await until(lambda: len(fake.asked_for) > before + 1)
        assert said(caplog) == [("WARNING", "citus-worker1:5432 is silent")]
        fake.troubles = ()
        await until(lambda: not reconciler.troubles)

    run(act)
    assert said(caplog) == [
        ("WARNING", "citus-worker1:5432 is silent"),
        ("INFO", "all nodes serve queries again"),
    ]


def test_shards_are_compared_seldom_and_at_once_when_a_node_is_back(fake: FakeCoordinator, run: Run) -> None:
    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.asked_for) > 3)
        assert fake.comparisons == 1
        fake.troubles, fake.losses = ("citus-worker1:5432 is silent",), ("citus-worker1:5432 lost a shard",)
        await until(lambda: reconciler.troubles == fake.troubles)
        assert fake.comparisons == 1
        fake.troubles = ()
        await until(lambda: reconciler.troubles == fake.losses)
        assert fake.comparisons == 2

    run(act, data_interval_s=3600)


def test_lost_shards_are_looked_for_again_soon(fake: FakeCoordinator, run: Run) -> None:
    fake.losses = ("citus-worker1:5432 lost a shard",)

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: fake.comparisons > 2)
        assert reconciler.troubles == fake.losses
        fake.losses = ()
        await until(lambda: not reconciler.troubles)

    run(act, data_interval_s=3600)


def test_disks_are_measured_seldom_and_are_no_condition_of_registration(
    fake: FakeCoordinator, run: Run, clock: Clock
) -> None:
    fake.disks = (Disk("citus-worker1:5432", 100, 50),)
    settings_s = 60.0

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.asked_for) > 0)
        reconciler.wake()
        await until(lambda: len(fake.asked_for) > 1)
        assert fake.measured == [WHOLE_DISK_BYTES]
        assert reconciler.disks == fake.disks
        fake.disk_failure = psycopg.OperationalError("lost")
        clock.now_s += settings_s
        reconciler.wake()
        await until(lambda: len(fake.measured) > 1)
        before = len(fake.asked_for)
        reconciler.wake()
        await until(lambda: len(fake.asked_for) > before)
        assert (reconciler.disks, reconciler.registration.error) == (fake.disks, None)

    run(act, disk_interval_s=settings_s)


def test_what_other_services_need_of_the_coordinator_is_made_and_is_no_condition_of_registration(
    fake: FakeCoordinator, run: Run, files: ApiFiles, caplog: pytest.LogCaptureFixture
) -> None:
    config = ApiConfig.from_json((files.folder / "cluster.json").read_bytes())
    pooler = Target(ComponentName.PGBOUNCER, {"pgbouncer": NodeAddress("pgbouncer", 6432)})
    files.write_cluster(replace(config, components=(pooler,)))
    secret = files.folder / "pgbouncer_password"
    secret.write_text("of the pooler\n")

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.prepared) > 1)
        fake.unprepared = RoleError("The name is taken.")
        await until(lambda: len(said(caplog)) > 3)
        before = len(fake.prepared)
        await until(lambda: len(fake.prepared) > before + 1)
        assert reconciler.unprepared == {ComponentName.PGBOUNCER: "The name is taken."}
        secret.unlink()
        await until(lambda: len(said(caplog)) > 4)
        assert reconciler.registration.error is None
        assert reconciler.registration.sort((ONE, TWO))[0]
        fake.unprepared = None
        secret.write_text("of the pooler\n")
        await until(lambda: reconciler.unprepared == {})

    run(act, lock_timeout_s=12)
    assert fake.prepared[0] == (("pgbouncer",), ("of the pooler",), 12)
    *_, made, taken, missing = said(caplog)
    assert made == ("INFO", "the coordinator has what they need")
    assert taken == ("WARNING", "pgbouncer lacks what it needs: The name is taken.")
    assert missing[0] == "WARNING"
    assert "pgbouncer_password cannot be read" in missing[1]


NEVER_S = 3600.0


@pytest.mark.parametrize("state", ["pending", "trouble", "failure", "none", "lost data"])
def test_it_looks_often_while_something_is_missing_and_seldom_while_nothing_is(
    fake: FakeCoordinator, run: Run, clock: Clock, state: str
) -> None:
    """Lost data do not come back by themselves, so looking for them often only costs."""
    match state:
        case "pending":
            fake.registered = {ONE: NodeResult(ONE, Outcome.PENDING, "it waits")}
        case "trouble":
            fake.troubles = ("citus-worker1:5432 is silent",)
        case "failure":
            fake.defect = ZeroDivisionError()
        case "lost data":
            fake.losses = ("citus-worker1:5432 lost a shard",)
    busy_s, idle_s = 0.01, 5.0

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.asked_for) == 1)
        await asyncio.sleep(5 * busy_s)
        assert len(fake.asked_for) == 1
        clock.now_s += busy_s
        if state in {"none", "lost data"}:
            await asyncio.sleep(5 * busy_s)
            assert len(fake.asked_for) == 1
            clock.now_s += idle_s
        await until(lambda: len(fake.asked_for) == 2)

    run(act, busy_interval_s=busy_s, idle_interval_s=idle_s)


def test_it_looks_at_once_when_it_is_woken(fake: FakeCoordinator, run: Run) -> None:
    async def act(reconciler: Reconciler) -> None:
        for looks in (1, 2, 3):
            await until(lambda looks=looks: len(fake.asked_for) == looks)  # type: ignore[misc]
            reconciler.wake()
        await until(lambda: len(fake.asked_for) == 4)

    run(act, busy_interval_s=NEVER_S, idle_interval_s=NEVER_S)


def test_it_looks_soon_when_the_files_say_something_new(fake: FakeCoordinator, run: Run, files: ApiFiles) -> None:
    config = ApiConfig.from_json((files.folder / "cluster.json").read_bytes())

    async def act(reconciler: Reconciler) -> None:
        await until(lambda: len(fake.asked_for) == 1)
        files.write_cluster(replace(config, workers=(ONE,)))
        await until(lambda: fake.asked_for[-1] == (ONE,))
        files.replace("cluster.json", "{}")
        await until(lambda: "not valid" in str(reconciler.registration.error))
        files.write_cluster(config)
        await until(lambda: reconciler.registration.error is None)
        assert fake.asked_for[-1] in {(ONE, TWO), (TWO, ONE)}

    run(act, idle_interval_s=NEVER_S)
