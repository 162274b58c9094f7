"""A second Docker engine in its own network namespace, which a test may stop and kill.

It does not affect the shared engine: the namespace has its own bridges, iptables and loopback interface, and all files
are in one folder. A client of the ports that it publishes must be in that namespace too, see :func:`private_network`.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from waiting import eventually

_CLONE_NEWNET = 0x40000000
_STOP_TIMEOUT_S = 60


def require_private_engine() -> None:
    """Skip the test if no second engine can run, even if clusters are required, because those do not need root."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a second engine needs root on Linux")
    for program in ("dockerd", "docker", "ip", "iptables"):
        if shutil.which(program) is None:
            pytest.skip(f"a second engine needs {program} on the PATH")


@contextmanager
def private_network() -> Iterator[None]:
    """Move the calling thread, and the processes that it starts, into a network with only a loopback interface."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"a network namespace cannot be made: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(home, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(home)


class EngineDidNotStartError(Exception):
    """The end of the daemon's log."""


class PrivateEngine:
    """The test's own ``dockerd``, started in the network of the calling thread."""

    def __init__(self) -> None:
        # Short, because paths of sockets are limited to 107 bytes; in /var/tmp, because /tmp may be in memory.
        self._folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/var/tmp"))
        self.host = f"unix://{self._folder}/docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None

    def docker(self, *arguments: str, check: bool = True, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        command = ["docker", "--host", self.host, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        assert not check or done.returncode == 0, done.stderr
        return done

    def start(self) -> None:
        """Start the daemon, and wait until it answers. Raises EngineDidNotStartError."""
        self._forget_dead_containerd()
        (self._folder / "docker.pid").unlink(missing_ok=True)
        folders = [f"--{name}={self._folder / name}" for name in ("data-root", "exec-root")]
        with self._log.open("ab") as log:
            self._daemon = subprocess.Popen(
                ["dockerd", f"--host={self.host}", f"--pidfile={self._folder}/docker.pid", *folders],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while self.docker("version", check=False).returncode:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise EngineDidNotStartError("\n".join(self._log.read_text(errors="replace").splitlines()[-15:]))
            time.sleep(0.2)

    def end(self, how: signal.Signals) -> None:
        """Send the daemon a signal that ends it, and wait until it ends."""
        assert self._daemon is not None
        self._daemon.send_signal(how)
        self._daemon.wait(timeout=_STOP_TIMEOUT_S)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let the daemon accept connections during the block, and do nothing else; its containers continue."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.send_signal(signal.SIGCONT)

    def lose_power(self) -> None:
        """Kill the daemon and everything that it runs at once, and remove what a power failure would remove."""
        containers = self.docker("ps", "--quiet").stdout.split()
        pids = self.docker("inspect", "--format", "{{.State.Pid}}", *containers).stdout.split()
        self.end(signal.SIGKILL)
        for pid in [*self._shims(), *map(int, pids)]:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self._shims(), "the containers' shims end", 20)
        self._unmount()
        shutil.rmtree(self._folder / "exec-root")

    def take_image(self, name: str) -> None:
        """Copy an image of the shared engine."""
        with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as source:
            subprocess.run(["docker", "--host", self.host, "load", "--quiet"], stdin=source.stdout, check=True)
        assert source.returncode == 0

    def remove(self) -> None:
        """Stop the daemon and all its containers, and remove its folder."""
        try:
            if self._daemon is not None:
                if self._daemon.poll() is not None and self._shims():
                    self.start()  # containers survive a daemon that was killed
                if self._daemon.poll() is None:
                    if left := self.docker("ps", "--all", "--quiet").stdout.split():
                        self.docker("rm", "--force", *left)
                    self.end(signal.SIGTERM)
        finally:
            if self._daemon is not None:
                self._daemon.kill()
                self._daemon.wait()
            self._unmount()
            shutil.rmtree(self._folder)

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _shims(self) -> list[int]:
        """Return the processes that containerd starts for each container, and that survive it."""
        mark = f"\0{self._folder}/exec-root/containerd/containerd.sock".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):  # it has ended in between
                if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes() and not _is_zombie(entry / "stat"):
                    found.append(int(entry.name))
        return found

    def _forget_dead_containerd(self) -> None:
        """Remove the process id of the containerd of a killed daemon, for which the next daemon would wait.

        The kernel ends that process together with the daemon; in a container, possibly no process reaps it.
        """
        file = self._folder / "exec-root/containerd/containerd.pid"
        if file.exists():
            status = Path(f"/proc/{file.read_text().strip()}/stat")
            eventually(lambda: not status.exists() or _is_zombie(status), "containerd ends with its daemon", 20)
            file.unlink()

    def _unmount(self) -> None:
        """Unmount everything that a killed daemon has left mounted below its folder, the deepest path first."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((one for one in mounts if one.startswith(f"{self._folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)


def _is_zombie(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
