"""The command ``api`` against a running API."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from api_support import ADMIN_TOKEN, READ_TOKEN, Api, ApiFiles, serve
from painting import Painter, Walls
from typer.testing import CliRunner, Result
from waiting import eventually

from admin_api.app import create_app
from citus_cluster.cli import api as api_module
from citus_cluster.cli import operations
from citus_cluster.cli.api import api as command
from citus_cluster.errors import CitusClusterError, UnreachableError, UsageError
from citus_cluster.runtime.api_client import ApiClient, ApiRefusedError

COMMANDS: dict[str, Callable[..., None]] = {
    "list": operations.list_operations,
    "show": operations.show,
    "cancel": operations.cancel,
    "resume": operations.resume,
}


@dataclass
class Shell:
    """Runs the command against an API."""

    api: Api
    painter: Painter
    folder: Path

    def run(self, *arguments: str, token: str = ADMIN_TOKEN, stdin: str | None = None) -> Result:
        return self._invoke(command, *arguments, token=token, stdin=stdin)

    def operations(self, *arguments: str, token: str = ADMIN_TOKEN) -> Result:
        """Run a command ``operations``: its name, and its arguments."""
        name, *rest = arguments
        return self._invoke(COMMANDS[name], *rest, token=token)

    def _invoke(self, function: Callable[..., None], *arguments: str, token: str, stdin: str | None = None) -> Result:
        file = self.folder / "token"
        file.write_text(f"{token}\n")
        app = typer.Typer()
        app.command()(function)
        url = f"http://127.0.0.1:{self.api.port}"
        return CliRunner().invoke(app, [*arguments, "--url", url, "--token-file", str(file)], input=stdin)

    def answer(self, *arguments: str, **more: Any) -> Any:
        done = self.run(*arguments, **more)
        assert done.exit_code == 0, (done.output, done.exception)
        return json.loads(done.stdout)

    def error(self, *arguments: str, **more: Any) -> CitusClusterError:
        failed = self.run(*arguments, **more)
        assert isinstance(failed.exception, CitusClusterError), (failed.output, failed.exception)
        return failed.exception


@pytest.fixture
def shell(files: ApiFiles) -> Iterator[Shell]:
    folder = files.folder / "data"
    folder.mkdir()
    painter = Painter()
    settings = files.settings(data_folder=folder, reconciler=False)
    with serve(create_app(settings, [painter.change()], [Walls(2500).view(max_age_s=60)])) as api:
        yield Shell(api, painter, files.folder)


def test_it_reads_and_changes(shell: Shell) -> None:
    assert shell.answer("walls", "-q", "limit=1", "-q", "fields=name", token=READ_TOKEN)["items"] == [
        {"name": "wall000000"}
    ]
    done = shell.answer("walls/paint", "-f", "wall=north", "-f", "coats=2")
    assert (done["state"], done["parameters"]["coats"]) == ("done", 2)
    assert shell.answer("/api/v1/operations/1")["id"] == 1
    assert shell.answer("walls/paint", "--input", "-", stdin='{"wall": "east"}')["state"] == "done"
    plan = shell.answer("walls/paint", "-f", "wall=wet", "--dry-run")
    assert plan["plan"]["findings"][0]["fix"] == "DRY WALL;"


def test_it_reads_all_pages(shell: Shell) -> None:
    rows = shell.answer("walls", "--all", "-q", "fields=name")
    assert len(rows) == len({row["name"] for row in rows}) == 2500
    few = shell.answer("walls", "--all", "-q", "name=wall000003", "-q", "name=wall000001", "-q", "limit=1")
    assert [row["name"] for row in few] == ["wall000001", "wall000003"]
    assert isinstance(shell.error("openapi.json", "--all"), CitusClusterError)


def test_it_follows_an_operation_to_its_end(shell: Shell) -> None:
    done = shell.run("walls/paint", "-f", "wall=north", "--wait")
    assert done.exit_code == 0
    started = shell.api.client.post(
        "/api/v1/walls/paint", headers=shell.api.admin | {"Prefer": "respond-async"}, json={"wall": "slow"}
    )
    eventually(shell.painter.started.is_set, "the start")
    cancelled = shell.answer(f"operations/{started.json()['id']}/cancel", "-X", "post")
    assert cancelled["state"] == "cancelled"
    shell.painter.go.clear()
    shell.painter.started.clear()
    shell.painter.go.set()
    resumed = shell.run(f"operations/{started.json()['id']}/resume", "--wait")
    assert resumed.exit_code == 0
    assert "resumed: what is done is skipped" in resumed.stderr or "slow is painted" in resumed.stderr


def test_operations_are_listed_shown_cancelled_and_resumed(shell: Shell) -> None:
    assert shell.operations("list").stdout == "None.\n"
    shell.run("walls/paint", "-f", "wall=north")
    shell.api.client.post(
        "/api/v1/walls/paint", headers=shell.api.admin | {"Prefer": "respond-async"}, json={"wall": "slow"}
    )
    eventually(shell.painter.started.is_set, "the start")
    running = json.loads(shell.operations("list", "--state", "running", "--format", "json").stdout)
    assert [one["id"] for one in running["items"]] == [2]
    assert "1 of 2 operations. To see more: --limit 2" in shell.operations("list", "--limit", "1").stderr
    assert shell.operations("cancel", "2", token=READ_TOKEN).exit_code == 1
    planned = shell.operations("cancel", "2", "--dry-run")
    assert (planned.exit_code, "1. Cancel operation 2" in planned.stdout) == (4, True), planned.stdout
    cancelled = shell.operations("cancel", "2")
    assert cancelled.exit_code == 0
    assert "cancelled; what was done stays done" in cancelled.stdout
    assert isinstance(shell.operations("cancel", "2").exception, ApiRefusedError)
    assert isinstance(shell.operations("show", "2", "--wait").exception, CitusClusterError)
    shell.painter.release()
    assert json.loads(shell.operations("resume", "2", "--dry-run", "--format=json").stdout)["steps"]
    resumed = shell.operations("resume", "2", "--wait")
    assert resumed.exit_code == 0
    shown = shell.operations("show", "2")
    assert "attempts" in shown.stdout
    assert "slow is painted" in shown.stdout
    assert isinstance(shell.operations("show", "99").exception, ApiRefusedError)


def test_it_waits_for_an_api_that_restarts(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is refused twice, as while the API restarts; after too long, the error is shown."""
    refused = []

    def events(self: ApiClient, path: str, after: int = 0) -> Iterator[tuple[str, Any]]:
        refused.append(path)
        if len(refused) == 2:
            shell.painter.release()
        if len(refused) < 3:
            raise UnreachableError("refused")
        return actual(self, path, after)

    actual = ApiClient.events
    monkeypatch.setattr(ApiClient, "events", events)
    monkeypatch.setattr(api_module, "_PAUSE_S", 0.01)
    asynchronously = shell.api.admin | {"Prefer": "respond-async"}
    shell.api.client.post("/api/v1/walls/paint", headers=asynchronously, json={"wall": "slow"})
    waited = shell.operations("show", "1", "--wait")
    assert waited.exit_code == 0
    assert waited.stderr.count("The admin API does not answer") == 1
    refused.clear()
    shell.painter.go.clear()
    monkeypatch.setattr(api_module, "_PATIENCE_S", 0.0)
    shell.api.client.post("/api/v1/walls/paint", headers=asynchronously, json={"wall": "slow"})
    assert isinstance(shell.operations("show", "2", "--wait").exception, UnreachableError)


def test_a_refusal_says_what_the_api_says(shell: Shell) -> None:
    refused = shell.error("walls/paint", "-f", "wall=wet")
    assert isinstance(refused, ApiRefusedError)
    assert refused.message.startswith("409: Nothing was changed: the wall is wet")
    assert "DRY WALL;" in (refused.hint or "")
    assert shell.error("walls/paint", "-f", "wall=north", token=READ_TOKEN).message.startswith("403: ")
    assert shell.error("walls", token="wrong").message.startswith("401: ")
    failed = shell.error("walls/paint", "-f", "wall=full")
    assert "operation: /api/v1/operations/1" in failed.details


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walls", "-q", "limit"], "--query has the form"),
        (["walls", "-f", "x"], "--field has the form"),
        (["walls", "-f", "a=1", "--input", "-"], "cannot be combined"),
        (["walls", "--input", "/nonexistent"], "cannot be read"),
        (["walls", "-X", "GE T"], "not an HTTP method"),
        (["wa lls"], "characters that a URL cannot have"),
        (["wälls"], "characters that a URL cannot have"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(shell: Shell, arguments: list[str], message: str) -> None:
    error = shell.error(*arguments, stdin="")
    assert isinstance(error, UsageError)
    assert message in error.message


def test_an_address_without_an_api_and_a_file_without_a_token(tmp_path: Path, run_plain: Callable[..., Result]) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    gone = run_plain("nodes", "--url", "http://127.0.0.1:1", "--token-file", str(token)).exception
    assert isinstance(gone, UnreachableError)
    for url in ("127.0.0.1:1", "ftp://x", "http://", "http://[::1", "http://x:99999"):
        wrong = run_plain("nodes", "--url", url, "--token-file", str(token)).exception
        assert isinstance(wrong, UsageError), url
    token.write_text(" \n")
    assert isinstance(
        run_plain("nodes", "--url", "http://127.0.0.1:1", "--token-file", str(token)).exception, UsageError
    )
    missing = run_plain("nodes", "--dir", str(tmp_path)).exception
    assert isinstance(missing, UsageError)
    assert "no complete cluster" in missing.message


@pytest.fixture
def run_plain() -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        app = typer.Typer()
        app.command()(command)
        return CliRunner().invoke(app, arguments)

    return run
