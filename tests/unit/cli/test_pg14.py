"""The commands of the PostgreSQL 14 pair where there is nothing to command: each says so, and changes nothing."""

import io
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from setup_support import contents

from citus_cluster.cli import pg14, program
from citus_cluster.errors import ConsentNeededError
from citus_cluster.operations.pair import use_cases

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, in ``tmp_path``, without an engine, and without a terminal."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.chdir(tmp_path)

    def execute(*arguments: str, main: Callable[[], None] = program.main) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["citus-cluster", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return int(ended.value.code or 0), printed.out, printed.err

    return execute


def make(run: Run, services: str) -> None:
    ports = "--pg14-port=1"  # nobody listens there
    status, _, said = run(
        f"--services={services}", ports, "--memory=7840", "--cpus=2", "--no-prompt", main=program.setup_main
    )
    assert status == 0, said


@pytest.mark.parametrize("command", [("status",), ("lag",)])
def test_a_cluster_without_the_pair_has_nothing_to_show(run: Run, command: tuple[str, ...]) -> None:
    make(run, "citus")
    status, _, said = run("pg14", *command)
    assert status == 2
    assert "no PostgreSQL 14 pair" in said


def test_without_an_engine_the_servers_are_asked_all_the_same(run: Run) -> None:
    make(run, "pg14")
    status, out, _ = run("pg14", "status", "--format=json")
    found = json.loads(out)
    assert status == 1
    assert [server["role"] for server in found["servers"]] == ["down", "down"]
    assert found["chosen_primary"] is None
    assert all("does not answer" in problem for problem in found["problems"])
    status, out, _ = run("pg14", "lag")
    assert (status, out) == (1, "the replica: the lag is unknown\n")


def test_the_lag_is_shown_again_and_again_until_ctrl_c(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make(run, "pg14")
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", wait)
    for arguments, most in ((("--watch",), 2.0), (("--watch", "--interval=0.5", "--format=json"), 0.5)):
        waits.clear()
        status, out, said = run("pg14", "lag", *arguments)
        assert (status, len(out.splitlines()), said) == (130, 2, "")
        assert all(wait <= most for wait in waits)


@pytest.mark.parametrize("command", ["promote", "rebuild-replica"])
def test_without_an_engine_no_role_changes(run: Run, tmp_path: Path, command: str) -> None:
    make(run, "pg14")
    before = {path: text for path, text in contents(tmp_path).items() if "journal" not in path and "lock" not in path}
    status, out, said = run("pg14", command, "--yes", "--format=json")
    assert status == 3
    assert json.loads(out)["error"]["code"] == "engine-unavailable"
    assert "engine" in said
    after = {path: text for path, text in contents(tmp_path).items() if "journal" not in path and "lock" not in path}
    assert after == before


def test_without_a_yes_and_without_a_terminal_nobody_has_agreed() -> None:
    agree = partial(pg14._agree, yes=False)
    with pytest.raises(ConsentNeededError, match="not confirmed") as refused:
        use_cases._require(agree, "Make it so?", ("this is lost",))
    assert refused.value.details == ("this is lost",)
    assert "--yes" in (refused.value.hint or "")
    assert pg14._agree("Make it so?", ["this is lost"], yes=True)
