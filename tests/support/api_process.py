"""The admin API as a process of its own, which a test can kill: ``python -m api_process FOLDER PORT``."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from api_support import ADMIN_TOKEN, ApiFiles
from waiting import eventually

from admin_api.app import create_app
from admin_api.server import OPTIONS

_ROOT = Path(__file__).parents[2]


@dataclass
class ApiProcess:
    """An API on one port, whose files, and so whose record of operations, outlive its processes."""

    files: ApiFiles
    port: int
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/api/v1",
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
            timeout=60,
            trust_env=False,
        )

    def start(self) -> None:
        """Start a process, and wait until it serves."""
        path = os.pathsep.join(map(str, (_ROOT, Path(__file__).parent)))
        command = [sys.executable, "-m", "api_process", str(self.files.folder), str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=_ROOT, env={**os.environ, "PYTHONPATH": path}, stderr=log)
        eventually(
            lambda: self.client.get("/operations").is_success,
            lambda: self.log.read_text()[-4000:],
            ignoring=httpx.TransportError,
        )

    def kill(self) -> None:
        """End the process as the kernel does when memory is short."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(10) == -signal.SIGKILL

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self.client.close()

    def operation(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/operations/{number}").json()
        return found

    def events(self, number: int) -> list[str]:
        items = self.client.get(f"/operations/{number}/events").json()["items"]
        return [one["message"] for one in items]


@contextlib.contextmanager
def api_process(files: ApiFiles) -> Iterator[ApiProcess]:
    """Run an API on a free port. Its process may be killed and started again."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    (files.folder / "data").mkdir()
    api = ApiProcess(files, port, files.folder / "api.log")
    try:
        api.start()
        yield api
    finally:
        api.close()


def _serve(folder: Path, port: int) -> None:
    settings = ApiFiles(folder).settings(data_folder=folder / "data", reconciler=False)
    uvicorn.run(create_app(settings), host="127.0.0.1", port=port, **OPTIONS)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
