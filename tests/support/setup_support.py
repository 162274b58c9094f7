"""Runs a set-up in a test, without an engine, on a machine of a fixed size."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import programs

from citus_cluster.errors import EngineUnavailableError
from citus_cluster.operations.setup.plan import SetupPlan, apply_setup, plan_setup
from citus_cluster.operations.setup.request import SetupRequest
from citus_cluster.runtime.docker.engine import Engine
from citus_cluster.runtime.store import files

ROOT = Path(__file__).parents[2]
MEMORY_MB = 15900
CPUS = 2


def no_engine() -> Engine:
    raise EngineUnavailableError("No engine is there.")


def a_request(root: Path, spec_file: Path | None = None, **more: Any) -> SetupRequest:
    """Return the request of a set-up in ``root``; ``values`` maps dotted paths of the specification to values."""
    values = more.pop("values", {})
    origins = {path: f"--{path.rpartition('.')[2]}" for path in values}
    return SetupRequest(root=root, spec_file=spec_file, values=values, origins=origins, **more)


def plan(root: Path, values: dict[str, Any] | None = None, **more: Any) -> SetupPlan:
    """Plan a set-up without an engine."""
    return plan_setup(a_request(root, values=values or {}, **more), connect_engine=no_engine)


def set_up(root: Path, values: dict[str, Any] | None = None, *, consent: bool = True, **more: Any) -> SetupPlan:
    """Plan and apply, like the command line; the machine's size is given, not detected."""
    if not (root / "cluster.yaml").exists() and "spec_file" not in more:
        values = {"resources.memory_mb": MEMORY_MB, "resources.cpus": CPUS, **(values or {})}
    with files.locked(root):
        made = plan(root, values, **more)
        apply_setup(made, consent=consent, replace_edited=more.get("replace_edited", False))
    return made


def snapshot(root: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return the content, time stamp and mode of every file except the lock."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != files.LOCK_FILE:
            status = path.stat()
            found[path.relative_to(root).as_posix()] = (path.read_bytes(), status.st_mtime_ns, status.st_mode & 0o777)
    return found


def contents(root: Path) -> dict[str, bytes]:
    """Return the content of every file except the lock."""
    return {path: content for path, (content, _, _) in snapshot(root).items()}


def attempt(
    root: Path, *options: str, before: Path | None = None, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run the generator without an engine; it finds modules in ``before`` first, and has most others imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CITUS_CLUSTER_")}
    environment |= {"DOCKER_HOST": f"unix://{root}/none.sock", **variables}
    environment["PYTHONPATH"] = f"{before}:{ROOT}" if before else str(ROOT)
    command = [sys.executable, str(ROOT / "setup_citus_cluster.py"), f"--output-dir={root}", *options]
    return programs.run(command, cwd=Path.cwd(), environment=environment)
