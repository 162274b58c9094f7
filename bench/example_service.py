"""A process of one of the example services, as ``uvicorn main:app`` starts it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.measure import ROOT, free_base_port
from citus_cluster.runtime.ports import answers


@contextlib.contextmanager
def running_service(package: str, cluster: Path, variables: Mapping[str, str] | None = None) -> Iterator[int]:
    """Run the example of a package against a cluster's directory; yields its port once it answers."""
    port = free_base_port(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "main:app", f"--port={port}", "--no-access-log", "--log-level=warning"],
        cwd=ROOT / "examples" / package,
        env={**os.environ, "CLUSTER_DIR": str(cluster), **(variables or {})},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not answers("127.0.0.1", port, b"GET /docs HTTP/1.0\r\n\r\n", timeout_s=2):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the service {package} did not start")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(30)
