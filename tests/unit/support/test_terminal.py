"""What is on a person's screen in the end: progress steps aside for results, at every width."""

import os
import sys
from pathlib import Path

import pytest
from setup_support import ROOT
from terminal import Screen, on_terminal

BLOCK = (
    "Cluster citus runs, 3 workers registered and verified (12.3 s).",
    "  psql       docker exec -it citus-coordinator psql -U postgres -d postgres",
    '  or         PGPASSWORD="$(cat generated/secrets/superuser_password)" psql -h 127.0.0.1 -p 5434 -U postgres',
    "Next:",
    "  citus-cluster status",
    "  citus-cluster down",
)
# What `up` does: companions are still waited for when the block comes, and end after it.
PROGRAM = f"""
import sys, termios
from citus_cluster.console import screen
from citus_cluster.model.plan.events import Event, EventKind

silent = termios.tcgetattr(0)
silent[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, silent)

def tell(step, kind, message):
    progress.emit(Event(step, kind, message))

with screen.Progress() as progress:
    tell("redis", EventKind.STARTED, "waiting for redis, whose health check has not said yes in the last while")
    tell("cassandra", EventKind.STARTED, "waiting for cassandra")
    tell("verify", EventKind.DONE, "the cluster is verified")
    sys.stdin.readline()  # until the progress is on the screen
    for line in {BLOCK!r}:
        screen.out.print(line, markup=False)
    tell("cassandra", EventKind.PROGRESS, "waiting for cassandra: not yet")
    tell("redis", EventKind.DONE, "redis is ready")
    screen.print_json({{"a": 1}})
    tell("cassandra", EventKind.DONE, "cassandra is ready")
screen.out.print("the end")
"""
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LANG": "C.UTF-8"}


def shown(tmp_path: Path, columns: int, **more: str) -> Screen:
    return on_terminal(
        [sys.executable, "-c", PROGRAM],
        columns=columns,
        cwd=tmp_path,
        environment=ENVIRONMENT | more,
        typed=[("waiting for cassandra", "\n")],
        timeout_s=60,
    )


@pytest.mark.parametrize(("columns", "more"), [(40, {}), (80, {}), (120, {}), (80, {"NO_COLOR": "1"})])
def test_a_result_that_comes_while_progress_is_shown_stays_whole(
    tmp_path: Path, columns: int, more: dict[str, str]
) -> None:
    screen = shown(tmp_path, columns, **more)
    assert screen.status == 0, screen.text
    told = ("✓ the cluster is verified", *BLOCK, "✓ redis is ready", "{", '  "a": 1', "}", "✓ cassandra is ready")
    assert screen.text.splitlines() == [*told, "the end"]


# Lines and frames as close together as on a busy machine; the steps under way take two rows, then one.
RACE = """
import sys
from citus_cluster.console import screen
from citus_cluster.model.plan.events import Event, EventKind

screen.FRAMES_PER_S = 2000
sys.setswitchinterval(1e-6)
with screen.Progress() as progress:
    for number in range(100):
        progress.emit(Event("step", EventKind.STARTED, f"step {number} is under way, and takes two rows of it"))
        screen.err.print(f"beside {number}")
        progress.emit(Event("step", EventKind.DONE, f"step {number}"))
"""


def test_no_frame_is_drawn_between_a_line_and_what_it_replaces(tmp_path: Path) -> None:
    screen = on_terminal([sys.executable, "-c", RACE], columns=40, cwd=tmp_path, environment=ENVIRONMENT, timeout_s=60)
    assert screen.status == 0, screen.text
    wanted = [line for number in range(100) for line in (f"beside {number}", f"✓ step {number}")]
    assert screen.text.splitlines() == wanted


def test_what_the_terminal_wraps_is_one_line_whatever_it_ends_with(tmp_path: Path) -> None:
    program = "print('a b c d e f g'); print('\\r\\x1b[Kabcdef'); print('abcdef'); print('abcdefgh ij')"
    screen = on_terminal([sys.executable, "-c", program], columns=6, cwd=tmp_path, environment=ENVIRONMENT)
    assert screen.text.splitlines() == ["a b c d e f g", "abcdef", "abcdef", "abcdefgh ij"]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(tmp_path: Path) -> None:
    lines = shown(tmp_path, 80, TERM="dumb").text.splitlines()
    assert "· waiting for cassandra" in lines
    assert "· waiting for cassandra: not yet" in lines
    assert [line for line in lines if line in BLOCK] == list(BLOCK)
