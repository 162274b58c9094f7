"""``citus-cluster up`` against ``docker compose up -d --wait`` of the same files, fresh volumes, in turns.

Our command registers every worker and verifies with a distributed write; the other one waits for the health
checks, with the reconciler off.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.measure import CLUSTER, SETUP, Run, free_base_port, median, print_table, remove_cluster, run

_RUNS = 5
_WORKERS = 3
_NAME = "citus-bench"
_SERVICES = "--services=citus,admin-api"
_RECONCILER_OFF = "services:\n  admin-api:\n    environment:\n      CITUS_CLUSTER_RECONCILER: 'off'\n"


def bench_startup() -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "version"], capture_output=True).returncode:
        print("\nStart: skipped, because no Docker engine answers")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = free_base_port(_WORKERS + 2)
        ports = [f"--port={first}", f"--admin-port={first + _WORKERS + 1}"]
        run([*SETUP, f"--workers={_WORKERS}", f"--name={_NAME}", *ports, _SERVICES, f"--output-dir={root}"])
        (root / "reconciler-off.yml").write_text(_RECONCILER_OFF)
        compose = ["docker", "compose", "-f", "docker-compose.yml", "-f", "reconciler-off.yml"]
        ours, theirs = [*CLUSTER, "up", f"--dir={root}"], [*compose, "up", "-d", "--wait"]
        try:
            _measure(root, ours)  # builds the image, and fills the caches
            pairs = [(_measure(root, ours), _measure(root, theirs)) for _ in range(_RUNS)]
        finally:
            remove_cluster(root)
    up_s = median([pair[0].wall_s for pair in pairs])
    wait_s = median([pair[1].wall_s for pair in pairs])
    print_table(
        f"Start of {_WORKERS} workers, median of {_RUNS} (goal: ratio at most 1.15)",
        ("what", "wall s", "ratio"),
        [
            ("docker compose up -d --wait, nothing registered (floor)", f"{wait_s:.2f}", "1.00"),
            ("citus-cluster up, registered and verified", f"{up_s:.2f}", f"{up_s / wait_s:.2f}"),
        ],
    )


def _measure(root: Path, command: list[str]) -> Run:
    remove_cluster(root)
    return run(command, cwd=root)
