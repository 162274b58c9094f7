"""The process that forks for each program: see ``programs.py``. Its argument is the number of a connected socket.

One byte with a new connection requests a program. The connection then carries its three standard streams and, as a line
of JSON, the rest; the server returns its process id, and its status once it has ended.
"""

import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import site
import socket
import sys
import termios
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

ANEW = ("citus_cluster.__main__", "citus_cluster.cli", "citus_cluster.console")
"""Modules that read the standard streams when they are imported, so each program imports them again."""


def compile_once() -> None:
    """Keep compiled modules in memory, because Python may be unable to write them, and programs import some again."""
    compiled: dict[str, CodeType | None] = {}
    load = SourceFileLoader.get_code

    def get_code(self: Any, fullname: str) -> CodeType | None:
        if fullname not in compiled:
            compiled[fullname] = load(self, fullname)
        return compiled[fullname]

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def import_everything() -> None:
    compile_once()
    package = importlib.import_module("citus_cluster")
    for module in pkgutil.walk_packages(package.__path__, "citus_cluster."):
        importlib.import_module(module.name)
    for name in [name for name in sys.modules if name.startswith(ANEW)]:
        del sys.modules[name]
    # These objects stay, so that garbage collections of programs do not copy their pages.
    gc.collect()
    gc.freeze()


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; returns in a new program, with its request, and at the end of the connection."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that no process must wait for those that follow a program
    while True:
        asked, (*ends,), *_ = socket.recv_fds(connection, 1, 1)
        if not asked:
            return None
        if os.fork():
            os.close(ends[0])
            continue
        connection.close()
        with socket.socket(fileno=ends[0]) as own:
            _, streams, *_ = socket.recv_fds(own, 1, 3)
            with own.makefile("r") as lines:
                request: dict[str, Any] = json.loads(lines.readline())
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            program = os.fork()
            if program:
                follow(program, own, streams)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        return request


def follow(program: int, own: socket.socket, streams: list[int]) -> None:
    """Send a program's process id and its status, then exit."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    try:
        own.sendall(f"{program}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
        own.sendall(f"{status}\n".encode())
    finally:
        os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Make this process equivalent to a new interpreter, and run the program."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if request["new_session"] or request["terminal"]:
        os.setsid()
    if request["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.stdin = sys.__stdin__ = _standard(0, sys.stdin)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _standard(1, sys.stdout)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _standard(2, sys.stderr)  # type: ignore[misc]
    before = os.environ["PYTHONPATH"].split(":")[:-1]
    if before:
        sys.path[1:1] = before
        sys.modules.pop("sitecustomize", None)
        site.execsitecustomize()
    sys.argv = request["arguments"]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path[0] = request["cwd"]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
        runpy.run_path(sys.argv[0], run_name="__main__")


def _standard(number: int, like: Any) -> io.TextIOWrapper:
    """Open a standard stream as Python does at its start."""
    buffered = not os.environ.get("PYTHONUNBUFFERED")
    mode, buffering = ("rb", -1) if number == 0 else ("wb", -1 if buffered else 0)
    binary: Any = open(number, mode, buffering, closefd=False)  # noqa: SIM115 - for as long as it runs
    stream = io.TextIOWrapper(
        binary,
        encoding=like.encoding,
        errors=like.errors,
        newline="\n",
        line_buffering=buffered and (number == 2 or binary.isatty()),
        write_through=not buffered,
    )
    setattr(stream, "mode", "r" if number == 0 else "w")  # noqa: B010 - as Python itself does
    return stream


if __name__ == "__main__":
    import_everything()
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        become(wanted)
