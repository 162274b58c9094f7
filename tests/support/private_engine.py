"""A second Docker engine in a network namespace of its own, which a test may stop and kill.

The shared engine cannot notice it: with the namespace it has its own bridges, iptables and loopback, and all its files
are in one folder. Whoever talks to ports that it publishes must be in that namespace too, see :func:`private_network`.
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
    """Skips the test where no second engine can run, also where clusters are required: those need root nowhere."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a second engine needs root on Linux")
    for program in ("dockerd", "docker", "ip", "iptables"):
        if shutil.which(program) is None:
            pytest.skip(f"a second engine needs {program} on the PATH")


@contextmanager
def private_network() -> Iterator[None]:
    """Put the calling thread, and what it starts from now on, into a network with nothing but a loopback."""
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
    """A ``dockerd`` of the test's own, started in the network of the calling thread."""

    def __init__(self) -> None:
        # Short, since paths of sockets are limited to 107 bytes; in /var/tmp, since /tmp may be memory.
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
        """Send the daemon a signal that ends it, and wait for that."""
        assert self._daemon is not None
        self._daemon.send_signal(how)
        self._daemon.wait(timeout=_STOP_TIMEOUT_S)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let the daemon accept connections meanwhile, and do nothing else; its containers go on."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.send_signal(signal.SIGCONT)

    def lose_power(self) -> None:
        """End the daemon and everything that it runs at once, and forget what a machine forgets without power."""
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
        """End the daemon and all of its containers, and remove its folder."""
        try:
            if self._daemon is not None:
                if self._daemon.poll() is not None and self._shims():
                    self.start()  # containers outlive a daemon that was killed
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
        """Processes that containerd has put above each container, and that outlive it."""
        mark = f"\0{self._folder}/exec-root/containerd/containerd.sock".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):  # it has ended meanwhile
                if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes() and not _is_zombie(entry / "stat"):
                    found.append(int(entry.name))
        return found

    def _forget_dead_containerd(self) -> None:
        """A daemon that was killed leaves the process id of its containerd behind, and the next one waits for it.

        The kernel ends that process along with the daemon; in a container nobody may reap it.
        """
        file = self._folder / "exec-root/containerd/containerd.pid"
        if file.exists():
            status = Path(f"/proc/{file.read_text().strip()}/stat")
            eventually(lambda: not status.exists() or _is_zombie(status), "containerd ends with its daemon", 20)
            file.unlink()

    def _unmount(self) -> None:
        """Take away what a killed daemon has left mounted below its folder, deepest first."""
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in sorted((one for one in mounts if one.startswith(f"{self._folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)


def _is_zombie(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
