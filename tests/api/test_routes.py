"""What each route answers, by what the coordinator, the reconciler and the services beside Citus say."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from api_support import Api, ApiFiles, serve
from declared_support import planned_at_once
from fake_coordinator import ADDRESS, FakeCoordinator, in_place
from jsonschema import Draft202012Validator

from admin_api import coordinator as coordinator_module
from admin_api.app import create_app
from admin_api.dependencies import Parts
from admin_api.reconciler import Registration
from admin_api.routes import health as health_module
from admin_api.routes import nodes as nodes_module
from citus_cluster import __version__
from citus_cluster.errors import CitusClusterError, UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.rebalance import NO_REBALANCE, JobState, RebalanceStatus, RunningMove
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.disks import Disk
from citus_cluster.model.visible import json_text
from citus_cluster.operations.nodes import registration
from citus_cluster.operations.nodes.joining import ADD
from citus_cluster.operations.rebalance import control as operation
from citus_cluster.operations.rebalance.changes import START

ONE, TWO = NodeAddress("citus-worker1"), NodeAddress("citus-worker2")


@dataclass
class Running:
    """A running API on a coordinator in memory, and the parts of it that a test may change."""

    api: Api
    coordinator: FakeCoordinator
    parts: Parts
    monkeypatch: pytest.MonkeyPatch

    def found(self, *results: NodeResult, troubles: tuple[str, ...] = ()) -> None:
        """Say what the reconciler found at its last look."""
        self.parts.reconciler.registration = Registration({result.address: result for result in results})
        self.parts.reconciler.troubles = troubles

    def companions(self, *statuses: CompanionStatus) -> list[float]:
        """Say how the services beside Citus are; gives how long each request would have waited for them."""
        waits: list[float] = []

        async def known(*, within_s: float) -> tuple[CompanionStatus, ...]:
            waits.append(within_s)
            return statuses

        self.monkeypatch.setattr(self.parts.companions, "known", known)
        return waits

    def own_disk(self, used_percent: int) -> None:
        self.monkeypatch.setattr(
            health_module, "own_disk", lambda: Disk("admin-api", 10**12, 10**10 * (100 - used_percent))
        )

    def health(self, status: int) -> dict[str, Any]:
        response = self.api.client.get("/health")
        assert response.status_code == status, response.text
        # Whoever stands between must ask each time.
        assert response.headers["cache-control"] == "no-store"
        assert response.headers.get("retry-after") == (None if status == 200 else "5")
        body: dict[str, Any] = response.json()
        return body

    def get(self, path: str) -> Any:
        response = self.api.client.get(f"/api/v1/{path}", headers=self.api.read)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def files(tmp_path: Path) -> ApiFiles:
    return ApiFiles.of_cluster(tmp_path, ADDRESS)


@pytest.fixture
def running(files: ApiFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """All is well: both workers are registered, no companion is wanted, the disk is half empty."""
    with in_place(monkeypatch) as fake:
        # Nothing is found but what a test says.
        monkeypatch.setattr("admin_api.reconciler.Reconciler.run", lambda reconciler: asyncio.sleep(3600))
        settings = files.settings(health_life_s=0, refusal_life_s=0, companion_timeout_s=2.5)
        app = create_app(settings, [planned_at_once(ADD), planned_at_once(START)])
        with serve(app) as api:
            running = Running(api, fake, app.state.parts, monkeypatch)
            running.own_disk(50)
            running.found(NodeResult(ONE, Outcome.ALREADY), NodeResult(TWO, Outcome.ADDED))
            yield running


WELL: dict[str, Any] = {
    "status": "ok",
    "reason": None,
    "warnings": [],
    "version": __version__,
    "cluster": "citus",
    "workers": {"desired": 2, "registered": 2, "pending": [], "withdrawn": [], "unwell": []},
    "reconciler_error": None,
    "companions": [],
}


def test_a_cluster_that_is_well(running: Running) -> None:
    coordinator = {"host": ADDRESS.host, "port": ADDRESS.port, "answers": True, "reason": None}
    assert running.health(200) == WELL | {"coordinator": coordinator}
    assert running.get("services") == {
        "citus": {"condition": "ok", "reason": None, "coordinator": coordinator, "workers": WELL["workers"]},
        "companions": [],
    }


def test_a_cluster_is_starting_until_it_was_well_and_degraded_from_then_on(running: Running) -> None:
    running.coordinator.refusal = UnreachableError("Nobody answers.")
    body = running.health(503)
    assert (body["status"], body["reason"]) == ("starting", "Nobody answers.")
    assert body["coordinator"]["answers"] is False
    assert body["coordinator"]["reason"] == "Nobody answers."
    assert running.get("services")["citus"]["condition"] == "starting"
    running.coordinator.refusal = None
    assert running.health(200)["status"] == "ok"
    for connection in running.coordinator.connections:
        connection.closed = True
    running.coordinator.refusal = UnreachableError("Nobody answers.")
    assert running.health(503)["status"] == "degraded"
    citus = running.get("services")["citus"]
    assert (citus["condition"], citus["reason"]) == ("down", "Nobody answers.")


def test_a_worker_that_is_not_registered_makes_the_cluster_degraded(running: Running) -> None:
    running.health(200)
    running.found(NodeResult(ONE, Outcome.PENDING, "it does not answer"), NodeResult(TWO, Outcome.WITHDRAWN, "removed"))
    body = running.health(503)
    assert (body["status"], body["reason"]) == (
        "degraded",
        "citus-worker1:5432 is not registered: it does not answer",
    )
    assert body["workers"] == {
        "desired": 2,
        "registered": 0,
        "pending": [{"host": "citus-worker1", "port": 5432, "outcome": "pending", "reason": "it does not answer"}],
        "withdrawn": [{"host": "citus-worker2", "port": 5432, "outcome": "withdrawn", "reason": "removed"}],
        "unwell": [],
    }
    assert running.get("services")["citus"]["condition"] == "degraded"


@pytest.mark.parametrize(("number", "told"), [(3, "a1; a2; a3"), (4, "a1; a2; a3; and 1 more")])
def test_the_reason_names_three_and_counts_the_others(running: Running, number: int, told: str) -> None:
    troubles = tuple(f"a{one}" for one in range(1, number + 1))
    # What the reconciler says twice is told once.
    running.found(*running.parts.reconciler.registration.results.values(), troubles=(*troubles, "a1"))
    body = running.health(503)
    assert body["reason"] == told
    assert body["workers"]["unwell"] == [*troubles, "a1"]


def test_a_node_in_maintenance_is_a_warning_and_no_alarm(running: Running) -> None:
    running.parts.reconciler.maintenance = ("citus-worker1:5432 is in maintenance",)
    body = running.health(200)
    assert (body["status"], body["warnings"]) == ("ok", ["citus-worker1:5432 is in maintenance"])


def test_without_the_reconciler_nothing_is_known_of_workers(running: Running) -> None:
    running.found(troubles=("citus-worker1:5432 is silent",))
    running.parts.settings = replace(running.parts.settings, reconciler=False)
    body = running.health(200)
    assert (body["status"], body["workers"]) == ("ok", None)


def test_why_the_reconciler_failed_is_told(running: Running) -> None:
    registration = running.parts.reconciler.registration
    running.parts.reconciler.registration = replace(registration, error="another session holds the lock")
    assert running.health(200)["reconciler_error"] == "another session holds the lock"


@pytest.mark.parametrize(
    ("used_percent", "status", "warnings"), [(84, "ok", 0), (85, "ok", 1), (94, "ok", 1), (95, "degraded", 0)]
)
def test_disks_that_fill_up_are_told(running: Running, used_percent: int, status: str, warnings: int) -> None:
    running.own_disk(used_percent)
    running.parts.reconciler.disks = (Disk("citus-worker1:5432", 10**9, 5 * 10**8),)
    body = running.health(200)
    assert (body["status"], len(body["warnings"])) == (status, warnings)
    said = body["warnings"] if warnings else [body["reason"]] if status != "ok" else []
    for line in said:
        assert line.startswith(f"The disk of admin-api is {used_percent} % full")
    assert body["reason"] is None or status == "degraded"


def test_the_disk_of_a_node_is_told_too(running: Running) -> None:
    running.parts.reconciler.disks = (Disk("citus-worker1:5432", 10**9, 4 * 10**7),)
    body = running.health(200)
    assert body["status"] == "degraded"
    assert body["reason"].startswith("The disk of citus-worker1:5432 is 96 % full")


def test_a_full_disk_does_not_hide_that_the_cluster_is_starting(running: Running) -> None:
    running.own_disk(99)
    running.companions(CompanionStatus(ComponentName.REDIS, Condition.STARTING, "it loads its data", {}))
    assert running.health(200)["status"] == "starting"


def test_the_own_disk_is_that_of_this_machine() -> None:
    disk = health_module.own_disk()
    assert disk.holder == "admin-api"
    assert 0 <= disk.available_bytes < disk.total_bytes


@pytest.mark.parametrize(
    ("conditions", "status"),
    [
        ((Condition.OK, Condition.OK), "ok"),
        ((Condition.OK, Condition.STARTING), "starting"),
        ((Condition.STARTING, Condition.DEGRADED), "degraded"),
        ((Condition.OK, Condition.DOWN), "degraded"),
    ],
)
def test_services_beside_citus_change_the_status_and_not_the_code(
    running: Running, conditions: tuple[Condition, Condition], status: str
) -> None:
    pair = CompanionStatus(ComponentName.PG14, conditions[0], None, {"lag": {"bytes": 7}}, "one follows the other")
    reason = None if conditions[1] is Condition.OK else "it said so"
    waits = running.companions(pair, CompanionStatus(ComponentName.REDIS, conditions[1], reason, {}))
    body = running.health(200)
    assert body["status"] == status
    assert body["companions"] == [
        {"service": "pg14", "condition": conditions[0].value, "reason": None},
        {"service": "redis", "condition": conditions[1].value, "reason": reason},
    ]
    assert (body["reason"] or "").endswith(f"redis is {conditions[1].value}: it said so" if reason else "")
    found = running.get("services")["companions"]
    assert found[0] == body["companions"][0] | {"summary": "one follows the other", "lag": {"bytes": 7}}
    assert found[1] == body["companions"][1] | {"summary": ""}
    # Health waits shortly; who asks for the services gets the first answer, too.
    assert waits == [running.parts.settings.health_timeout_s, 3.5]


def test_a_configuration_that_cannot_be_read_is_told_by_health(running: Running, files: ApiFiles) -> None:
    running.health(200)
    files.replace("cluster.json", "{}")
    body = running.health(503)
    assert body["status"] == "degraded"
    assert "cluster.json" in body["reason"]
    assert body["coordinator"] == {"host": None, "port": None, "answers": False, "reason": body["reason"]}
    assert (body["cluster"], body["workers"], body["companions"]) == (None, None, [])


def test_active_workers_are_listed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def workers(connection: object) -> list[tuple[str, int]]:
        return [("citus-worker1", 5432), ("10.0.0.7", 6000)]

    monkeypatch.setattr(nodes_module, "active_workers", workers)
    assert running.get("nodes/active") == [
        {"node_name": "citus-worker1", "node_port": 5432},
        {"node_name": "10.0.0.7", "node_port": 6000},
    ]


@pytest.mark.parametrize(
    ("error", "status", "code", "detail"),
    [
        (
            psycopg.OperationalError("server closed the connection"),
            503,
            "unreachable",
            "The connection failed while listing the active workers: server closed the connection",
        ),
        (
            psycopg.errors.QueryCanceled("canceling statement"),
            503,
            "unreachable",
            "The coordinator did not answer in time while listing the active workers.",
        ),
        (TimeoutError(), 504, "timeout", None),
        (psycopg.errors.FeatureNotSupported("cannot"), 409, "refused", None),
        (psycopg.errors.UndefinedFunction("no such function"), 503, "not-supported", None),
        (CitusClusterError("It is so."), 500, "failed", "It is so."),
    ],
)
def test_a_question_that_fails_is_a_problem(
    running: Running, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str, detail: str | None
) -> None:
    async def workers(connection: object) -> list[tuple[str, int]]:
        raise error

    monkeypatch.setattr(nodes_module, "active_workers", workers)
    response = running.api.client.get("/api/v1/nodes/active", headers=running.api.read)
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert detail in {None, body["detail"]}
    assert response.headers.get("retry-after") == ("5" if code == "unreachable" else None)


class Registering:
    """The operation that registers a worker, with what it was asked."""

    def __init__(self) -> None:
        self.outcome = Outcome.ADDED
        self.reason: str | None = None
        self.asked: list[tuple[Any, ...]] = []

    async def __call__(
        self, connection: object, coordinator: NodeAddress, worker: NodeAddress, emit: object, **more: Any
    ) -> NodeResult:
        self.asked.append((coordinator, worker, more))
        return NodeResult(worker, self.outcome, self.reason)


@pytest.fixture
def registering(monkeypatch: pytest.MonkeyPatch) -> Registering:
    registering = Registering()
    monkeypatch.setattr(registration, "add_worker", registering)
    return registering


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.ADDED, 201), (Outcome.ALREADY, 200), (Outcome.ACTIVATED, 200)]
)
def test_a_worker_is_registered(running: Running, registering: Registering, outcome: Outcome, status: int) -> None:
    registering.outcome, registering.reason = outcome, "so it is"
    woken: list[bool] = []
    running.monkeypatch.setattr(running.parts.reconciler, "wake", lambda: woken.append(True))
    response = running.api.client.post("/api/v1/nodes", headers=running.api.admin, json={"host": "citus-worker3"})
    assert (response.status_code, woken) == (status, [True])
    node = {"host": "citus-worker3", "port": 5432, "outcome": outcome.value, "reason": "so it is"}
    assert response.json()["result"] == {"node": node, "job_id": None, "rebalance": None}
    assert response.headers["location"] == f"/api/v1/operations/{response.json()['id']}"
    settings = running.parts.settings
    ((coordinator, worker, more),) = registering.asked
    assert (coordinator, worker) == (NodeAddress("citus-coordinator"), NodeAddress("citus-worker3"))
    assert more == {
        "timeout_s": settings.register_timeout_s,
        "wait_for_lock_s": settings.lock_timeout_s,
        "trust_functions": False,
    }


def test_functions_are_trusted_on_demand_alone(running: Running, registering: Registering) -> None:
    body = {"host": "10.0.0.7", "port": 6000, "trust_functions": True}
    assert running.api.client.post("/api/v1/nodes", headers=running.api.admin, json=body).status_code == 201
    _, worker, more = registering.asked[0]
    assert (worker, more["trust_functions"]) == (NodeAddress("10.0.0.7", 6000), True)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (None, RebalanceOptions()),
        ({}, RebalanceOptions()),
        (
            {
                "strategy": "by_disk_size",
                "mode": "block_writes",
                "drain_only": True,
                "parallel_transfer_reference_tables": True,
                "parallel_transfer_colocated_shards": True,
                "trust_functions": True,
            },
            RebalanceOptions("by_disk_size", TransferMode.BLOCK_WRITES, True, True, True, True),
        ),
    ],
)
@pytest.mark.parametrize("job_id", [7, None])
def test_a_rebalance_is_started_as_it_was_asked_for(
    running: Running, monkeypatch: pytest.MonkeyPatch, body: object, options: RebalanceOptions, job_id: int | None
) -> None:
    asked: list[RebalanceOptions] = []

    async def start(connection: object, wanted: RebalanceOptions, emit: object) -> int | None:
        asked.append(wanted)
        return job_id

    monkeypatch.setattr(operation, "start", start)
    more = {} if body is None else {"json": body}
    response = running.api.client.post("/api/v1/rebalance", headers=running.api.admin, **more)  # type: ignore[arg-type]
    assert asked == [options]
    assert response.json()["result"] == {"job_id": job_id, "rebalance": None}
    assert response.status_code == (202 if job_id else 200)
    address = f"/api/v1/operations/{response.json()['id']}"
    assert response.headers["location"] == ("/api/v1/rebalance" if job_id else address)


@pytest.mark.parametrize(("path", "setting"), [("nodes", "change_timeout_s"), ("rebalance", "plan_timeout_s")])
def test_a_change_may_take_as_long_as_its_kind_may(
    running: Running, monkeypatch: pytest.MonkeyPatch, path: str, setting: str
) -> None:
    asked: list[float] = []

    planning = running.parts.coordinator.change

    async def change(work: Callable[..., Any], *, timeout_s: float) -> Any:
        asked.append(timeout_s)
        if len(asked) > 1:
            raise TimeoutError
        return await planning(work, timeout_s=timeout_s)

    monkeypatch.setattr(running.parts.coordinator, "change", change)
    body = {"host": "citus-worker3"} if path == "nodes" else {}
    response = running.api.client.post(f"/api/v1/{path}", headers=running.api.admin, json=body)
    assert response.status_code == 504
    settings = running.parts.settings
    assert asked == [settings.plan_timeout_s, getattr(settings, setting)]


@pytest.mark.parametrize("is_running", [True, False])
def test_the_progress_of_a_rebalance_is_the_document_of_the_command_line(running: Running, is_running: bool) -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    move = RunningMove("public.orders", 102008, ONE, TWO, "Copying Data", 1024, None)
    found = NO_REBALANCE
    if is_running:
        found = RebalanceStatus(
            JobState.RUNNING, 7, now, None, now, {"done": 1}, 1, 2, 10, 20, 1.5, 6.0, (move,), ("slow",)
        )

    async def answer() -> RebalanceStatus:
        return found

    running.monkeypatch.setattr(running.parts.rebalance_status, "answer", answer)
    response = running.api.client.get("/api/v1/rebalance", headers=running.api.read)
    assert response.status_code == 200
    assert response.text == json_text(found.as_dict(), compact=True)
    document = running.api.client.get("/openapi.json", headers=running.api.read).json()
    schema = {"$ref": "#/components/schemas/RebalanceDocument", "components": document["components"]}
    Draft202012Validator(schema).validate(response.json())


def test_a_crowd_is_a_problem_with_the_time_to_come_back(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "MAX_REQUESTS", 0)
    response = running.api.client.get("/api/v1/rebalance", headers=running.api.read)
    assert (response.status_code, response.json()["code"]) == (503, "busy")
    assert response.headers["retry-after"] == "5"


def test_what_lives_as_long_as_the_app_is_closed_with_it(files: ApiFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def loop(reconciler: object) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("reconciler")

    async def close(companions: object) -> None:
        ended.append("companions")

    with in_place(monkeypatch) as fake:
        monkeypatch.setattr("admin_api.reconciler.Reconciler.run", loop)
        monkeypatch.setattr("admin_api.companions.CompanionWatch.close", close)
        with serve(create_app(files.settings())) as api:
            api.client.get("/health")
        assert ended == ["reconciler", "companions"]
        assert [connection.closed for connection in fake.connections] == [True]
