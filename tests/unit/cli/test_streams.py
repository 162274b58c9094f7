"""Output that nobody reads, that has no room, or that is closed: no traceback, and a status of its own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from setup_support import ROOT, set_up

PROGRAM = f"{shlex.quote(sys.executable)} -m citus_cluster"
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere.sock"}
LOST = 141
COMMANDS = ["--version", "status --format json", "setup --help", "completion bash"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cluster")
    set_up(root, {"workers": 1, "services": ["citus"], "ports.citus": 1})
    return root


def shell(line: str, cwd: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert "report it" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_leaves_ends_the_program_as_sigpipe_does(directory: Path, command: str) -> None:
    # The reader is gone before a byte is written, whatever the size of the output.
    line = f"{{ read -r _ < go; {PROGRAM} {command}; echo $? >&2; }} | {{ exec <&-; echo > go; }}"
    go = directory / "go"
    go.unlink(missing_ok=True)
    os.mkfifo(go)
    assert shell(line, directory) == (0, "", f"{LOST}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_behind_stdout_is_one_sentence(directory: Path, command: str) -> None:
    status, _, said = shell(f"{PROGRAM} {command} > /dev/full", directory)
    assert status == LOST
    assert said == "Error: The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize("where", ["2> /dev/full", "2> /dev/full > /dev/full"])
def test_a_full_disk_behind_stderr_is_the_same_status(directory: Path, where: str) -> None:
    assert shell(f"{PROGRAM} --nonsense {where}", directory) == (LOST, "", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing_else(directory: Path, closed: str) -> None:
    assert shell(f"{PROGRAM} --version {closed}", directory)[0] == 0
    assert shell(f"{PROGRAM} status {closed}", directory)[0] == 1
    # The first file that is opened must not take the place of the closed stream, and get what is printed.
    assert shell(f"{PROGRAM} setup --workers=2 {closed}", directory)[0] == 4
    assert (directory / ".citus-cluster.lock").read_bytes().strip().isdigit()
