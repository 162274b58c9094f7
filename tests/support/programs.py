"""Runs our programs without starting an interpreter: a server that has imported everything forks for each run.

For a test, such a process is the same: exit status, signals, environment, directory, umask, streams, terminal
(tests/unit/support/test_programs.py compares them with a real one). Only the time differs, and what an import reads
from the process. Use ``subprocess`` for tests of the start of the interpreter, such as Ctrl-C during imports, closed
standard streams, and modules that are imported or missing.
"""

import atexit
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).with_name("program_server.py")
_AT_START = ("PYTHON", "LC_", "LANG")
"""Variables that an interpreter reads at its start: a program with other values than the server's gets its own one."""
_lock = threading.Lock()


class Process(Protocol):
    """The common interface of ``subprocess.Popen`` and a forked program."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


class _Forked:
    """A program that the server has forked; the connection reports its process id and, at its end, its status."""

    def __init__(self, command: Sequence[str], connection: socket.socket) -> None:
        self._command = command
        self._connection = connection
        self._lines = connection.makefile("r")
        self.pid = self._number()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            # select() does not support file descriptors from 1024 on, and some tests open a thousand connections.
            ready = select.poll()
            ready.register(self._connection, select.POLLIN)
            if not ready.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired(list(self._command), timeout or 0)
            self.returncode = self._number()
            self._lines.close()
            self._connection.close()
        return self.returncode

    def _number(self) -> int:
        line = self._lines.readline()
        assert line, f"the server of programs has ended: {' '.join(self._command)}"
        return int(line)

    def kill(self) -> None:
        # It may have ended while its status is still on its way.
        with suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, signal.SIGKILL)


class _Server:
    """The process that forks: it ends when the other end of its first connection is closed."""

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), str(its.fileno())],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
            )
        self._connection = ours
        atexit.register(self.close)

    def start(self, command: Sequence[str], streams: Sequence[int], request: dict[str, object]) -> _Forked:
        ours, its = socket.socketpair()
        with its:
            socket.send_fds(self._connection, [b"+"], [its.fileno()])
        socket.send_fds(ours, [b"+"], [*streams])
        ours.sendall(json.dumps(request).encode() + b"\n")
        return _Forked(command, ours)

    def close(self) -> None:
        self._connection.close()
        self._process.wait()


_servers: dict[int, _Server] = {}


def _the_server() -> _Server:
    """Return the server for the network of the calling thread, because a test and its programs may have their own."""
    network = Path("/proc/thread-self/ns/net").stat().st_ino
    with _lock:
        if network not in _servers:
            _servers[network] = _Server()
        return _servers[network]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Return those variables, and the end of the search path: a program can have additional folders before it."""
    found = {name: value for name, value in environment.items() if name.startswith(_AT_START)}
    found["PYTHONPATH"] = found.get("PYTHONPATH", "").rpartition(":")[2]
    return found


def _umask() -> int:
    """Read the umask. The system call that returns it also sets it, for all threads."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise AssertionError("the kernel does not tell the umask")


def _is_ours(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether the server can run it: a script or a module, with this Python, and with the server's variables."""
    if command[0] != sys.executable or not sys.platform.startswith("linux"):
        return False
    if not command[1].endswith(".py") and command[1] != "-m":
        return False
    return _at_start(environment) == _at_start(_environment())


def start(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    new_session: bool = False,
    terminal: bool = False,
) -> Process:
    """Start a command with these three files; with ``terminal``, in a new session that the terminal at stdin controls.

    The server forks our programs; others, and those with other variables, are ordinary processes.
    """
    if _is_ours(command, environment):
        request = {
            "arguments": [*command[1:]],
            "cwd": str(cwd),
            "environment": dict(environment),
            "umask": _umask(),
            "new_session": new_session,
            "terminal": terminal,
        }
        return _the_server().start(command, (stdin, stdout, stderr), request)
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=new_session or terminal,
        # Programs such as psql read from their controlling terminal.
        preexec_fn=_control_terminal if terminal else None,
    )


def _control_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def run(
    command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout_s: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, without input and without a terminal; the server forks our programs."""
    out, its_out = os.pipe()
    err, its_err = os.pipe()
    texts = {out: "", err: ""}

    def read(end: int) -> None:
        with open(end, encoding="utf-8") as file:
            texts[end] = file.read()

    readers = [threading.Thread(target=read, args=[end], daemon=True) for end in texts]
    for reader in readers:
        reader.start()
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        process = start(command, cwd=cwd, environment=environment, stdin=nothing, stdout=its_out, stderr=its_err)
    finally:
        for end in (nothing, its_out, its_err):
            os.close(end)
    try:
        status = process.wait(timeout_s)
    except BaseException:
        process.kill()
        process.wait()
        raise
    for reader in readers:
        reader.join()
    return subprocess.CompletedProcess([*command], status, texts[out], texts[err])
