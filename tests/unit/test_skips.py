"""What a run of the tests says of those that it leaves out."""

import os
import re
import subprocess
import sys

from setup_support import ROOT


def test_all_that_is_skipped_without_an_engine_is_one_line() -> None:
    left_out = {key: value for key, value in os.environ.items() if key not in {"REQUIRE_CLUSTER", "PYTEST_ADDOPTS"}}
    files = ["tests/integration/test_sql_verify.py", "tests/integration/test_sql_nodes.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env=left_out | {"DOCKER_HOST": "unix:///nowhere.sock"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    number = re.fullmatch(r"SKIPPED \[(\d+)\] no Docker engine: .* its socket does not exist\.", line)
    assert number and int(number[1]) > 10
