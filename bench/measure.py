"""Runs commands and measures their wall time and peak memory; computes medians, and prints tables."""

import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from citus_cluster.runtime.postgres import ConnectionInfo

ROOT = Path(__file__).parent.parent
SETUP = [sys.executable, str(ROOT / "setup_citus_cluster.py"), "--no-prompt"]
CLUSTER = [sys.executable, "-m", "citus_cluster"]


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds, and the peak memory of that process in MB."""

    wall_s: float
    peak_mb: float


def project_environment() -> dict[str, str]:
    """The environment in which ``CLUSTER`` runs from any directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(
    command: Sequence[str], *, cwd: Path | None = None, on_line: Callable[[str, float], None] = lambda line, at_s: None
) -> Run:
    """Run a command to its end; if it fails, the benchmark ends with its output.

    ``on_line`` gets each line as it is printed, with the seconds since the start.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, env=project_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    lines = []
    for raw in process.stdout:
        lines.append(raw.decode(errors="replace"))
        on_line(lines[-1], time.perf_counter() - started)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}:\n{''.join(lines)}")
    divisor = 1024 * 1024 if sys.platform == "darwin" else 1024
    return Run(wall_s, usage.ru_maxrss / divisor)


def resident_mb(container: str) -> float:
    """Resident memory of the container's largest process."""
    top = ["docker", "top", container, "-eo", "pid,rss"]
    lines = subprocess.run(top, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    return max(int(line.split()[1]) for line in lines) / 1024


_started = time.monotonic()


def progress(text: str) -> None:
    """Print what a benchmark does now, with the seconds since its start, to standard error."""
    print(f"{time.monotonic() - _started:6.0f} s  {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class ProcessorUse:
    """Processor seconds since the start: of containers with all their processes, by name, and of the whole machine.

    ``machine_s`` is None where the kernel does not show it.
    """

    containers: Mapping[str, float]
    machine_s: float | None
    at_s: float

    @classmethod
    def now(cls, containers: Iterable[str]) -> "ProcessorUse":
        return cls({name: _cgroup_s(name) for name in containers}, _machine_s(), time.monotonic())

    def since(self, earlier: "ProcessorUse") -> "ProcessorUse":
        """Return what was used between two moments; ``at_s`` is then the seconds in between."""
        machine_s = None
        if self.machine_s is not None and earlier.machine_s is not None:
            machine_s = self.machine_s - earlier.machine_s
        used = {name: seconds - earlier.containers[name] for name, seconds in self.containers.items()}
        return ProcessorUse(used, machine_s, self.at_s - earlier.at_s)


def _cgroup_s(container: str) -> float:
    # Of cgroup v2, in microseconds, or of v1, in nanoseconds.
    files = "cat /sys/fs/cgroup/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpuacct/cpuacct.usage"
    ask = ["docker", "exec", container, "sh", "-c", files]
    words = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()
    return int(words[1]) / 1e6 if words[0] == "usage_usec" else int(words[0]) / 1e9


def _machine_s() -> float | None:
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = map(int, words[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def processor_s(container: str) -> float:
    """Processor seconds that the container's first process has used, in steps of 10 ms."""
    stat = subprocess.run(
        ["docker", "exec", container, "cat", "/proc/1/stat"], capture_output=True, text=True, check=True
    ).stdout
    # The fields after the name, which may contain spaces; Linux shows times in hundredths of a second.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def docker_answers() -> bool:
    return (
        shutil.which("docker") is not None and not subprocess.run(["docker", "version"], capture_output=True).returncode
    )


def connect(server: ConnectionInfo) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        dbname=server.database,
        autocommit=True,
    )


def connect_node(root: Path, port: int) -> psycopg.Connection[Any]:
    """Connect to the node of Citus at ``port`` of the cluster in ``root``, as its superuser."""
    password = (root / "generated/secrets/superuser_password").read_text()
    return connect(ConnectionInfo("127.0.0.1", port, "postgres", "postgres", password))


def remove_cluster(root: Path) -> None:
    """Remove the containers and volumes of the cluster in ``root``."""
    down = ["docker", "compose", "--profile", "*", "down", "--volumes", "--timeout", "10"]
    subprocess.run(down, cwd=root, capture_output=True, check=True)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the value below which this part (0 to 1) of the ascending values lies."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


_BLOCK = 50
_claims: list[socket.socket] = []
"""One socket for each block of ports that is in use, bound to its last port, so that no other process takes the block
while servers on it have not started yet, or are down."""


def free_base_port(count: int = 20) -> int:
    """Return the first of ``count`` consecutive free ports on the loopback, at most 49, for the admin API and nodes."""
    # Below the ports of outgoing connections on Linux, which could take one of these while a container restarts.
    start = 20000 + secrets.randbelow(250) * _BLOCK
    first: int
    for first in (*range(start, 32500, _BLOCK), *range(20000, start, _BLOCK)):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first + _BLOCK - 1))
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return first
    raise RuntimeError("no free ports")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with aligned columns."""
    lines = [tuple(columns), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    sys.stdout.flush()
