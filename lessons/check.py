"""Checks: what a lab or project must show, declared once for ``python -m lessons check`` and for the tests.

A check is a function in ``lessons/checks``: ``lesson_N.py`` or ``project_NAME.py`` gives the folder that it is about.

    @check("E2-02", expected="more than 8 times faster", needs=("redis",))
    def speed_up(lab: Lab) -> Seen:
        \"\"\"The cache makes 100 look-ups of 10 users faster.\"\"\"
        seen = speed_up_in(lab.run("cache_demo.py"))
        return Seen(seen > 8, f"{seen:.1f} times faster")
"""

import contextlib
import importlib
import os
import pkgutil
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import redis

import lessons.checks
from lessons.catalogue import ROOT, Unit, unit
from lessons.cluster import Servers


@dataclass(frozen=True)
class Seen:
    """What a check saw, and whether it is what was expected."""

    passed: bool
    text: str


@dataclass(frozen=True)
class Check:
    """One check. ``row`` is the row of the requirements, ``step`` a sentence that says what is checked."""

    row: str
    expected: str
    needs: tuple[str, ...]
    unit_key: str
    name: str
    step: str
    function: Callable[["Lab"], Seen]

    @property
    def identifier(self) -> str:
        return f"{self.row}-{self.name}"

    def run(self, servers: Servers) -> Seen:
        """Run it. Whatever it raises is seen, and not passed, and the other checks follow."""
        lab = Lab(unit(self.unit_key), servers, self.needs)
        try:
            return self.function(lab)
        except Exception as error:  # also a mistake in a project: the table shows it beside the others
            return Seen(False, f"{type(error).__name__}: {error}")


_CHECKS: list[Check] = []


def check(
    row: str, *, expected: str, needs: Sequence[str] = ()
) -> Callable[[Callable[["Lab"], Seen]], Callable[["Lab"], Seen]]:
    """Declare a function as the check of a row.

    ``needs`` are servers and programs without which it is not run: ``redis``, ``postgresql``, ``docker``,
    ``matplotlib``, or the name of a command.
    """

    def declare(function: Callable[["Lab"], Seen]) -> Callable[["Lab"], Seen]:
        kind, _, name = function.__module__.rpartition(".")[2].partition("_")
        assert kind in ("lesson", "project"), f"{function.__module__} is neither lesson_N nor project_NAME"
        step = (function.__doc__ or "").strip().partition("\n")[0]
        assert step, f"the check {function.__name__} needs a docstring"
        _CHECKS.append(Check(row, expected, tuple(needs), name, function.__name__, step, function))
        return function

    return declare


@cache
def all_checks() -> tuple[Check, ...]:
    """Import every module of ``lessons/checks``. Returns their checks, lessons first."""
    for module in sorted(found.name for found in pkgutil.iter_modules(lessons.checks.__path__)):
        importlib.import_module(f"lessons.checks.{module}")
    return tuple(_CHECKS)


class Lab:
    """What a check works with: the scripts of its lesson or project, run as a person would, and its servers."""

    def __init__(self, of: Unit, servers: Servers, needs: tuple[str, ...] = ()) -> None:
        self.folder = of.folder
        self.servers = servers
        self.needs = needs
        self.start_within_s = 30.0
        """How long a server may take until it accepts connections."""

    @cached_property
    def redis_url(self) -> str:
        url = self.servers.redis_url
        assert url, "the check uses Redis but does not say so in needs"
        return url

    @cached_property
    def redis(self) -> redis.Redis:
        """A client of the lessons' database; values are text."""
        return redis.Redis.from_url(self.redis_url, decode_responses=True, socket_timeout=30)

    @cached_property
    def database_url(self) -> str:
        url = self.servers.database_url
        assert url, "the check uses PostgreSQL but does not say so in needs"
        return url

    def run(self, script: str, *arguments: object, status: int = 0, timeout_s: float = 120, **environment: str) -> str:
        """Run a lab, or the module of a project (``run("-m", …)``), to its end.

        Returns stdout and stderr together. Fails with them if it does not end with ``status``.
        """
        done = subprocess.run(
            self.command(script, *arguments),
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        shown = " ".join([script, *map(str, arguments)])
        assert done.returncode == status, f"{shown} ended with {done.returncode}, not {status}:\n{done.stdout.strip()}"
        return done.stdout

    def start(self, script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start a script that goes on; its two streams come together by ``stdout``. The caller ends it."""
        return subprocess.Popen(
            self.command(script, *arguments),
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextlib.contextmanager
    def server(
        self,
        script: str,
        *arguments: object,
        port: int | None = None,
        **environment: str,
    ) -> Iterator["RunningServer"]:
        """Start a server on a free port, wait until it accepts connections, and end it with the block.

        It learns its port from PORT; ``{port}`` in an argument is replaced by it.
        """
        chosen = port or free_port()
        given = [str(one).replace("{port}", str(chosen)) for one in arguments]
        with tempfile.NamedTemporaryFile("w+") as output:
            process = subprocess.Popen(
                self.command(script, *given),
                env=self.environment(PORT=str(chosen), **environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                wait_for(
                    lambda: process.poll() is not None or _accepts(chosen),
                    f"{script} to accept connections",
                    self.start_within_s,
                )
                if process.poll() is not None:
                    raise AssertionError(
                        f"{script} ended with {process.returncode}:\n{Path(output.name).read_text().strip()}"
                    )
                yield RunningServer(chosen, process, Path(output.name))
            finally:
                stop(process)

    def page_names(self, *terms: str) -> Seen:
        """Look for every term in the page of this lesson or project; capitals and line breaks do not matter."""
        page = " ".join((self.folder / "README.md").read_text(encoding="utf-8").lower().split())
        missing = [one for one in terms if one.lower() not in page]
        return Seen(not missing, f"missing: {', '.join(missing)}" if missing else f"all {len(terms)}")

    def command(self, script: str, *arguments: object) -> list[str]:
        """Return the command of a script of this folder; ``-m`` and a project's own files stay as they are."""
        first = [script] if script == "-m" else [str(self.folder / script)]
        return [sys.executable, *first, *map(str, arguments)]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of the labs: the caller's, and the servers that the check needs."""
        paths = os.pathsep.join(filter(None, [str(ROOT), self.servers.environment.get("PYTHONPATH")]))
        return {
            **self.servers.environment,
            **self.servers.variables(self.needs),
            "PYTHONPATH": paths,
            "PYTHONUNBUFFERED": "1",
            **more,
        }


@dataclass(frozen=True)
class RunningServer:
    """A server of a lab."""

    port: int
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """Return what it has printed so far, stdout and stderr together."""
        return self.output.read_text()

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()


def stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a process: politely, and after 10 s by force."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(happens: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    """Wait until a condition is true. Fails with ``what`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not happens():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)


def free_port() -> int:
    """Return a free port on the loopback interface.

    It is below the ports of outgoing connections on Linux, so none of these takes it before the server does.
    """
    while True:
        port = random.randrange(15000, 20000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
