"""Ctrl-C while a program is still importing, and while it follows what goes on without it."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from setup_support import ROOT, set_up

from citus_cluster.cli.acting import following
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.operations.rebalance.watch import STEP

ENVIRONMENT = {"PATH": "/nonexistent", "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere.sock"}


@pytest.mark.parametrize("module", ["typer", "pydantic", "psycopg"])
def test_while_the_program_imports_what_it_needs(tmp_path: Path, module: str) -> None:
    set_up(tmp_path, {"workers": 1, "services": ["citus"], "ports.citus": 1})
    child = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "citus_cluster", "status", "--watch", "--interval", "60"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stderr
        # Python tells of each module once it is imported.
        assert any(re.search(rf"\| +{module}[.\n]", line) for line in child.stderr), f"{module} was never imported"
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read()
    assert child.returncode == 130, rest
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    "program",
    [("-m", "citus_cluster", "status"), (str(ROOT / "setup_citus_cluster.py"),), (str(ROOT / "add_worker.py"),)],
)
def test_while_a_module_is_imported_that_catches_everything(tmp_path: Path, program: tuple[str, ...]) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "typer.py").write_text(
        "import pathlib, time\npathlib.Path('begun').touch()\n"
        "try:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    child = subprocess.Popen(
        [sys.executable, *program],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": f"{modules}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert child.poll() is None and time.monotonic() < deadline, "the module was never imported"
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30) == ("", "Interrupted.\n")
    assert child.returncode == 130


def test_what_goes_on_by_itself_is_said_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, following("FOLLOW IT", stop="STOP IT") as progress:
        progress.emit(Event(STEP, EventKind.STARTED, "rebalance started as job 3"))
        progress.emit(Event(STEP, EventKind.PROGRESS, "running"))
        progress.emit(Event(STEP, EventKind.WARNING, "a move waits"))
        raise KeyboardInterrupt
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert "continues in the background. To follow it: FOLLOW IT" in said
    assert "To stop it: STOP IT" in said


@pytest.mark.parametrize("kind", [EventKind.DONE, EventKind.FAILED, EventKind.SKIPPED, None])
def test_before_and_after_that_it_is_not(capsys: pytest.CaptureFixture[str], kind: EventKind | None) -> None:
    with pytest.raises(KeyboardInterrupt), following() as progress:
        progress.emit(Event("mark:w4", EventKind.STARTED, "another step"))
        if kind:
            progress.emit(Event(STEP, EventKind.STARTED, "rebalance started as job 3"))
            progress.emit(Event(STEP, kind, "over"))
        raise KeyboardInterrupt
    assert "continues in the background" not in capsys.readouterr().err
