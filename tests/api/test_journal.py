"""What the admin API notes: the same line for an operation as the command line, but for who asked."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from api_support import Api, ApiFiles, serve
from declared_support import planned_at_once
from fake_coordinator import ADDRESS, FakeCoordinator, in_place
from setup_support import set_up

from admin_api.app import create_app
from citus_cluster.cli import program
from citus_cluster.errors import RebalanceError, UnreachableError, WorkerUnreachableError
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.rebalance import NO_REBALANCE
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations import coordinator as coordinator_module
from citus_cluster.operations.nodes import joining, registration
from citus_cluster.operations.rebalance import changes, control, watch

WORKER = NodeAddress("citus-worker9")
ADD, START = planned_at_once(joining.ADD), planned_at_once(changes.START)
CHANGES = (ADD, START)


@pytest.fixture
def files(tmp_path: Path) -> ApiFiles:
    (tmp_path / "api").mkdir()
    return ApiFiles.of_cluster(tmp_path / "api", ADDRESS)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCoordinator]:
    with in_place(monkeypatch) as fake:
        monkeypatch.setattr("admin_api.reconciler.Reconciler.run", lambda reconciler: asyncio.sleep(3600))
        yield fake


@pytest.fixture
def api(files: ApiFiles, fake: FakeCoordinator) -> Iterator[Api]:
    with serve(create_app(files.settings(), CHANGES)) as api:
        yield api


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the operations come to: a value that they return, or an error that they raise."""
    found: dict[str, Any] = {}

    def come_to(key: str) -> Any:
        if isinstance(found[key], Exception):
            raise found[key]
        return found[key]

    async def start(connection: object, options: object, emit: object) -> Any:
        return come_to("rebalance-start")

    async def add(connection: object, coordinator: object, worker: object, emit: Emit, **more: object) -> Any:
        result = come_to("add-worker")
        registration._report(emit, result)
        return result

    async def status(connection: object, job_id: object) -> Any:
        return NO_REBALANCE

    monkeypatch.setattr(control, "start", start)
    monkeypatch.setattr(watch, "status", status)
    monkeypatch.setattr(registration, "add_worker", add)
    return found


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a command on a coordinator that takes every connection; gives what it has noted."""
    root = tmp_path / "cluster"
    set_up(root, {"workers": 1, "services": ["citus"]})

    @asynccontextmanager
    async def connection() -> Any:
        yield None

    async def connect(*arguments: object, **more: object) -> Any:
        return connection()

    def run(*arguments: str) -> dict[str, Any]:
        with monkeypatch.context() as patched:
            patched.setattr(coordinator_module, "connect", connect)
            patched.setattr(registration, "connect", connect)
            patched.setattr(joining, "ADD", ADD)
            patched.setattr(changes, "START", START)
            patched.setattr(sys, "argv", ["citus-cluster", *arguments, f"--dir={root}"])
            with pytest.raises(SystemExit):
                program.main()
        (line,) = (root / "generated/journal.jsonl").read_text().splitlines()
        return dict(json.loads(line))

    return run


@pytest.mark.parametrize(
    ("operation", "result", "request_", "words"),
    [
        ("rebalance-start", 7, ("rebalance", {}), ("rebalance", "start")),
        ("rebalance-start", None, ("rebalance", {}), ("rebalance", "start")),
        ("rebalance-start", RebalanceError("One is running."), ("rebalance", {}), ("rebalance", "start")),
        (
            "add-worker",
            NodeResult(WORKER, Outcome.ADDED),
            ("nodes", {"host": WORKER.host}),
            ("nodes", "add", f"--host={WORKER.host}"),
        ),
        (
            "add-worker",
            WorkerUnreachableError("It does not answer."),
            ("nodes", {"host": WORKER.host, "trust_functions": True}),
            ("nodes", "add", f"--host={WORKER.host}", "--trust-functions"),
        ),
    ],
)
def test_both_edges_note_the_same_but_for_who_asked(
    api: Api,
    files: ApiFiles,
    outcome: dict[str, Any],
    command: Callable[..., dict[str, Any]],
    operation: str,
    result: object,
    request_: tuple[str, dict[str, Any]],
    words: tuple[str, ...],
) -> None:
    outcome[operation] = result
    path, body = request_
    api.client.post(f"/api/v1/{path}", headers=api.admin | {"X-Request-ID": "the-request"}, json=body)
    (of_api,) = files.journal()
    of_command = command(*words)
    assert of_api.pop("by") == {
        "program": "admin-api",
        "request": f"POST /api/v1/{path}",
        "role": "admin",
        "name": "admin",
        "via": "token",
        "client": "127.0.0.1",
        "request_id": "the-request",
        "operation": 1,
    }
    by = of_command.pop("by")
    assert (by["program"], by["arguments"][: len(words)]) == ("citus-cluster", list(words))
    for line in (of_api, of_command):
        assert line.pop("time") and line.pop("duration_s") >= 0
    assert of_api == of_command
    assert of_api["operation"] == operation
    assert of_api["result"] == ("failed" if isinstance(result, Exception) else "done")


def test_a_worker_is_noted_although_the_rebalance_after_it_fails(
    outcome: dict[str, Any], command: Callable[..., dict[str, Any]]
) -> None:
    outcome |= {"add-worker": NodeResult(WORKER, Outcome.ADDED), "rebalance-start": RebalanceError("One is running.")}
    line = command("nodes", "add", f"--host={WORKER.host}", "--rebalance")
    assert (line["result"], line["error"]) == ("failed", RebalanceError.code)
    assert line["outcome"] == {"outcome": "added"}


def test_only_what_may_change_the_cluster_is_noted(api: Api, files: ApiFiles) -> None:
    assert api.client.get("/api/v1/services", headers=api.admin).status_code == 200
    assert api.client.post("/api/v1/rebalance", headers=api.read).status_code == 403
    assert api.client.post("/api/v1/rebalance").status_code == 401
    assert api.client.post("/api/v1/nodes", headers=api.admin, json={"host": "no such host"}).status_code == 422
    assert files.journal() == []


def test_a_request_that_found_no_coordinator_or_no_time_is_noted(
    api: Api, fake: FakeCoordinator, files: ApiFiles, outcome: dict[str, Any]
) -> None:
    fake.refusal = UnreachableError("Nobody answers.")
    assert api.client.post("/api/v1/rebalance", headers=api.admin).status_code == 503
    fake.refusal, outcome["rebalance-start"] = None, TimeoutError()
    assert api.client.post("/api/v1/rebalance", headers=api.admin).status_code == 504
    assert [line["error"] for line in files.journal()] == ["unreachable", "TimeoutError"]


def test_a_journal_that_cannot_be_written_fails_no_request(
    files: ApiFiles, fake: FakeCoordinator, outcome: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    outcome["rebalance-start"] = 7
    with serve(create_app(files.settings(journal_folder=files.folder / "not-mounted"), CHANGES)) as api:
        assert api.client.post("/api/v1/rebalance", headers=api.admin).status_code == 202
    (line,) = [one.message for one in caplog.records if one.name.endswith("journal")]
    assert '"rebalance-start"' in line
