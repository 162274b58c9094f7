"""A program that is forked has all that a real process has: what it finds, what it writes, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import programs
import pytest
from private_engine import private_network
from setup_support import ROOT
from terminal import on_terminal

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "MINE": "ü\udcff\n=", "TZ": "Asia/Kathmandu"}

FINDINGS = """
import json, locale, os, resource, signal, sys, threading, time
sys.stdout.flush()
print(json.dumps({
    "arguments": sys.argv,
    "environment": dict(os.environ),
    "cwd": os.getcwd(),
    "umask": os.umask(0o022),
    "path": sys.path,
    "name": __name__,
    "file": __file__,
    "main": sys.modules["__main__"].__name__,
    "files": sorted(os.listdir("/proc/self/fd")),
    "terminals": [os.isatty(number) for number in range(3)],
    "streams": [
        [stream.encoding, stream.errors, stream.line_buffering, stream.write_through, stream.mode, stream.newlines,
         stream.fileno(), stream.closed, type(stream.buffer).__name__]
        for stream in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "same": [sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
    "read": sys.stdin.read(),
    "signals": [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)],
    "masked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "locale": locale.setlocale(locale.LC_CTYPE),
    "time": time.tzname,
    "threads": threading.active_count(),
    "leads": os.getsid(0) == os.getpid(),
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
    "priority": os.nice(0),
    "ours": [name for name in sys.modules if name.startswith(("citus_cluster.cli", "citus_cluster.console"))],
}), flush=True)
"""


def both(command: list[str], cwd: Path, environment: Mapping[str, str] = ENVIRONMENT) -> list[Any]:
    """Run a command as a real process, and forked."""
    real = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    forked = programs.run(command, cwd=cwd, environment=environment, timeout_s=60)
    return [real, forked]


def test_it_finds_what_a_real_one_finds(tmp_path: Path) -> None:
    file = tmp_path / "findings.py"
    file.write_text(FINDINGS)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    old = os.umask(0o137)
    try:
        real, forked = (json.loads(one.stdout) for one in both([sys.executable, str(file), "a b", "ü", ""], folder))
    finally:
        os.umask(old)
    assert forked == real
    assert (forked["umask"], forked["cwd"], forked["time"][0]) == (0o137, str(folder), "+0545")


def test_a_module_finds_what_a_real_one_finds(tmp_path: Path) -> None:
    (tmp_path / "findings.py").write_text(FINDINGS)
    real, forked = (json.loads(one.stdout) for one in both([sys.executable, "-m", "findings", "-x"], tmp_path))
    assert forked == real


ENDS = {
    "a status": "sys.exit(7)",
    "a text": "sys.exit('why')",
    "an exception of the exit": "atexit.register(print, 'at the end'); sys.exit(0)",
    "at once": "print('never seen', end=''); os._exit(3)",
    "a signal": "os.kill(os.getpid(), signal.SIGKILL)",
    "an interruption": "os.kill(os.getpid(), signal.SIGINT); time.sleep(30)",
    "a lost output": "os.close(1); print('lost')",
    "no output": "sys.stdout.write('half a line'); sys.stderr.write('more')",
    "its own children": "print(subprocess.run(['sh', '-c', 'exit 4']).returncode)",
    "another program": "os.execvp('sh', ['sh', '-c', 'echo $0 $MINE; exit 5'])",
}


@pytest.mark.parametrize("how", ENDS)
def test_it_ends_as_a_real_one_ends(how: str, tmp_path: Path) -> None:
    file = tmp_path / "ends.py"
    file.write_text(f"import atexit, os, signal, subprocess, sys, time\nprint('begun', flush=True)\n{ENDS[how]}\n")
    environment = ENVIRONMENT | {"MINE": "mine"}
    real, forked = both([sys.executable, str(file)], tmp_path, environment)
    assert (forked.returncode, forked.stdout) == (real.returncode, real.stdout)
    assert forked.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    "arguments",
    [["-m", "citus_cluster"], ["-m", "citus_cluster", "status"], [str(ROOT / "add_worker.py"), "--port=x"]],
)
def test_our_programs_say_the_same(arguments: list[str], tmp_path: Path) -> None:
    real, forked = both([sys.executable, *arguments], tmp_path)
    assert (forked.returncode, forked.stdout, forked.stderr) == (real.returncode, real.stdout, real.stderr)


def test_on_a_terminal_too(tmp_path: Path) -> None:
    file = tmp_path / "terminal.py"
    file.write_text(
        "import os, sys\nfrom citus_cluster.console import screen\n"
        "print(sys.stdin.isatty(), screen.out.width, screen.err.is_terminal, os.getsid(0) == os.getpid())\n"
        "print(os.tcgetpgrp(0) == os.getpid(), input('what? '))\n"
        "screen.out.print('[red]red[/]')\n"
    )

    def seen(command: list[str]) -> tuple[int, str]:
        screen = on_terminal(
            command, columns=57, cwd=tmp_path, environment=ENVIRONMENT | {"TERM": "xterm"}, typed=[("what? ", "that\n")]
        )
        return screen.status, screen.raw

    forked = seen([sys.executable, str(file)])
    assert forked == seen([sys.executable, "-c", file.read_text()])
    assert "True 57 True True" in forked[1] and "True that" in forked[1] and "\x1b[31mred" in forked[1]


def test_it_is_killed_where_it_takes_too_long(tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    file.write_text(
        "import os, pathlib, time\npathlib.Path('new').write_text(str(os.getpid()))\n"
        "os.rename('new', 'number')\ntime.sleep(300)\n"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        programs.run([sys.executable, str(file)], cwd=tmp_path, environment=ENVIRONMENT, timeout_s=3)
    number = tmp_path / "number"
    assert not number.exists() or not Path(f"/proc/{number.read_text()}").exists()


def test_a_session_of_its_own_is_killed_whole(tmp_path: Path) -> None:
    file = tmp_path / "session.py"
    file.write_text("import subprocess\nsubprocess.run(['sh', '-c', 'echo begun; sleep 300'])\n")
    end, its = os.pipe()
    with Path(os.devnull).open() as nothing:
        stdin = nothing.fileno()
        process = programs.start(
            [sys.executable, str(file)],
            cwd=tmp_path,
            environment=ENVIRONMENT,
            stdin=stdin,
            stdout=its,
            stderr=its,
            new_session=True,
        )
    os.close(its)
    with os.fdopen(end) as said:
        assert said.readline() == "begun\n"
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert said.read() == "", "its child has ended too"


def test_several_run_at_once(tmp_path: Path) -> None:
    file = tmp_path / "several.py"
    file.write_text("import sys, time\ntime.sleep(0.5)\nsys.exit(int(sys.argv[1]))\n")

    def status(number: int) -> int:
        command = [sys.executable, str(file), str(number)]
        return programs.run(command, cwd=tmp_path, environment=ENVIRONMENT).returncode

    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=8) as pool:
        assert [*pool.map(status, range(8))] == [*range(8)]
    assert time.monotonic() - started < 60


def test_modules_of_another_folder_are_found_first(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.found = __file__\n")
    file = tmp_path / "custom.py"
    file.write_text("import os, sys\nprint(os.found, sys.path[1])\n")
    real, forked = both([sys.executable, str(file)], ROOT, ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert forked.stdout == real.stdout == f"{tmp_path / 'sitecustomize.py'} {tmp_path}\n"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="a network needs root, and ip")
def test_a_program_is_in_the_network_of_its_test(tmp_path: Path) -> None:
    script = tmp_path / "network.py"
    script.write_text("import os; print(os.readlink('/proc/self/ns/net'))")

    def network() -> str:
        return programs.run([sys.executable, str(script)], cwd=tmp_path, environment=ENVIRONMENT).stdout.strip()

    here = Path("/proc/thread-self/ns/net")
    ours = str(here.readlink())
    assert network() == ours
    with private_network():
        own = str(here.readlink())
        assert network() == own != ours
    assert network() == ours
