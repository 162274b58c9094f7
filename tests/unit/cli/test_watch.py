"""``status --watch`` on a terminal, on a cluster that does not run; in a pipe see tests/e2e/test_roles.py."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from setup_support import ROOT, set_up


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_is_shown_in_place_and_the_cursor_comes_back(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    set_up(tmp_path, {"workers": 1, "services": ["citus"], "ports.citus": 1})
    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (9, 80))
    child = subprocess.Popen(
        [sys.executable, "-m", "citus_cluster", "status", "--watch", "--interval", "0.1"],
        cwd=tmp_path,
        env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT), "DOCKER_HOST": "unix:///nowhere.sock", "TERM": "xterm"},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        start_new_session=True,
    )
    os.close(other_end)
    seen, told = b"", False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end has gone
            break
        if seen.count(b"press Ctrl-C to stop") >= 3 and not told:
            child.send_signal(sent)
            told = True
    os.close(terminal)
    assert child.wait(timeout=30) == status, seen
    text = seen.decode()
    assert re.search(r"Cluster citus: .*down", text)
    assert "Connection refused" in text, "problems are not cut off where the terminal is too small for everything"
    assert "\x1b[1A" in text, "the second round is written over the first"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"
    assert "Traceback" not in text
    assert "Interrupted" not in text


def test_a_directory_without_a_cluster_is_told_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "citus_cluster", "status", "--watch", "--format=json"],
        cwd=tmp_path,
        env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "There is no complete cluster" in done.stderr
