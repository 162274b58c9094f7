"""The command ``retune``: the memory is divided again, on purpose and with consent."""

import json
import os
import sys
from pathlib import Path

import programs
import pytest
from setup_support import ROOT, contents, plan, set_up

from citus_cluster.operations.setup import plan as setup_plan


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster of a version that kept no shares."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    root = tmp_path / "cluster"
    with monkeypatch.context() as patch:
        patch.setattr(setup_plan, "shared_spec", lambda spec, *args: spec)
        set_up(root, {"workers": 3, "services": ["citus"]})
    return root


def run(root: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "citus_cluster", "retune", f"--dir={root}", *options]
    result = programs.run(command, cwd=ROOT, environment={**os.environ, "PYTHONPATH": str(ROOT)})
    return result.returncode, result.stdout


def test_it_names_what_restarts_and_makes_room(earlier: Path) -> None:
    before = contents(earlier)
    status, printed = run(earlier, "--dry-run")
    assert status == 4
    assert "restart   citus-coordinator: mem_limit 3578m" in printed
    assert contents(earlier) == before
    status, printed = run(earlier, "--yes", "--format=json")
    assert status == 0
    nodes = ["citus-coordinator", "citus-worker1", "citus-worker2", "citus-worker3"]
    assert json.loads(printed)["setup"]["restarts"] == nodes
    assert plan(earlier, {"workers": 5}).restarts == ()
    assert "Nothing to do" in run(earlier)[1]


def test_nobody_who_did_not_agree_loses_a_connection(earlier: Path) -> None:
    before = contents(earlier)
    assert run(earlier)[0] != 0
    assert contents(earlier) == before
