"""Commands that are printed run when they are pasted: without an activated environment, from another folder."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from citus_cluster.console.screen import pasteable


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scripts and an environment in .venv that is not activated."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/citus-cluster").touch()
    (tmp_path / "setup_citus_cluster.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return tmp_path


def test_an_environment_that_is_not_activated_is_named(here: Path) -> None:
    assert pasteable("citus-cluster status", here) == ".venv/bin/citus-cluster status"
    assert pasteable("python setup_citus_cluster.py --up", here) == ".venv/bin/python setup_citus_cluster.py --up"


def test_an_activated_one_is_not(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: str(here / ".venv/bin" / name))
    for command in ("citus-cluster status", "python setup_citus_cluster.py --up"):
        assert pasteable(command, here) == command


def test_a_cluster_elsewhere_is_named_as_each_command_wants_it(here: Path) -> None:
    root = here / "a $b"
    quoted = shlex.quote(str(root))
    assert pasteable("citus-cluster up", root).endswith(f" up --dir {quoted}")
    assert pasteable("python setup_citus_cluster.py --up", root).endswith(f" --up --output-dir {quoted}")
    assert pasteable("docker compose up -d", root) == f"cd {quoted} && docker compose up -d"


def test_without_the_scripts_the_installed_program_does_it(here: Path) -> None:
    assert pasteable("python add_worker.py --host w", here) == ".venv/bin/citus-cluster add-worker --host w"
