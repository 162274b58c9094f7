"""Files and directories that cannot be worked with: each is one clear sentence, at once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from setup_support import ROOT, set_up

HEAD = "apiVersion: citus-cluster/v1\n"
DEEP = f"{HEAD}settings: {'[' * 100_000}"
LARGE = f"{HEAD}settings: {{coordinator: {{application_name: {'x' * 50_000_000}}}}}\n"


def program(cwd: Path, *arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "citus_cluster", *arguments],
        cwd=cwd,
        env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere.sock"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


AWKWARD: dict[str, tuple[Callable[[Path], object], str]] = {
    "deep": (lambda path: path.write_text(DEEP), "cluster.yaml, line 2: lists and groups of keys are nested deeper"),
    "FIFO": (os.mkfifo, "not a regular file."),
    "large": (lambda path: path.write_text(LARGE), "has 47.7 MB; a specification has at most 1.0 MB."),
    "tab": (
        lambda path: path.write_text(f"{HEAD}ports:\n\tcitus: 1\n"),
        "cluster.yaml, line 3: YAML does not allow a tab",
    ),
    "folder": (Path.mkdir, "is not a regular file."),
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_a_specification_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    make, sentence = AWKWARD[kind]
    make(tmp_path / "cluster.yaml")
    status, said = program(tmp_path, "setup", "--workers=1")
    assert status == 2
    assert len(said) == 2, said
    assert sentence in said[0]
    assert said[1].startswith("What to do: ")
    assert len(said[0]) < 300
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]


def set_up_from_stdin(folder: Path, specification: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "citus_cluster", "setup", "--spec=/dev/stdin", "--output-dir", str(folder)],
        env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere.sock"},
        input=specification,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_specification_from_a_pipe(tmp_path: Path) -> None:
    done = set_up_from_stdin(tmp_path / "made", f"{HEAD}name: piped\nworkers: 1\nservices: [citus]\n")
    assert done.returncode == 0, done.stderr
    assert "name: piped" in (tmp_path / "made" / "cluster.yaml").read_text()

    wrong = set_up_from_stdin(tmp_path / "wrong", f"{HEAD}ports:\n\tcitus: 1\n")
    assert wrong.returncode == 2
    assert "/dev/stdin, line 3: YAML does not allow a tab" in wrong.stderr

    large = set_up_from_stdin(tmp_path / "wrong", f"{HEAD}{'#' * 2_000_000}")
    assert large.returncode == 2
    assert "/dev/stdin has more than 1.0 MB; a specification has at most 1.0 MB." in large.stderr


@pytest.mark.parametrize("kind", ["deep", "FIFO", "large"])
def test_the_specification_of_a_cluster_that_cannot_be_read_any_more(tmp_path: Path, kind: str) -> None:
    set_up(tmp_path, {"workers": 1, "services": ["citus"]})
    (tmp_path / "cluster.yaml").unlink()
    make, sentence = AWKWARD[kind]
    make(tmp_path / "cluster.yaml")
    status, said = program(tmp_path, "status")
    assert status in {1, 2}
    assert len(said) == 2, said
    assert sentence in said[0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("100%", "has a % in its path"), ("a%zz", "has a % in its path"), ("line\nbreak", "has a line break or another")],
)
def test_a_directory_whose_name_compose_cannot_work_with(tmp_path: Path, name: str, problem: str) -> None:
    folder = tmp_path / name
    status, said = program(tmp_path, "setup", f"--output-dir={folder}")
    assert status == 2
    assert len(said) == 2, said
    assert problem in said[0]
    assert not folder.exists()


def test_a_directory_whose_name_compose_takes(tmp_path: Path) -> None:
    set_up(tmp_path / "a b%20c+ü", {"workers": 1, "services": ["citus"]})
