import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

_ENGINE_TIMEOUT_S = 60

LONGEST_FILES = (
    "e2e/test_leaving.py",
    "e2e/test_faults.py",
    "e2e/test_cassandra.py",
    "e2e/test_pg14_promotion.py",
    "e2e/test_whole_stack.py",
    "e2e/test_rebalance_faults.py",
    "integration/test_sql_drain.py",
    "e2e/test_main_job.py",
    "e2e/test_pg14.py",
    "e2e/test_earlier_version.py",
    "e2e/test_two_servers.py",
    "e2e/test_roles.py",
    "integration/test_up.py",
    "e2e/test_engine_restart.py",
)
"""In several processes these begin first: a run ends with the file that ends last."""

# A shell without job control starts what runs in the background with SIGINT ignored, and programs inherit that: those
# that tests start and interrupt would never notice.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write tests/golden/expected anew.")
    parser.addoption("--shuffle", metavar="SEED", help="Run the tests without a cluster in another order.")


@pytest.hookimpl(trylast=True)  # once tests are grouped by the fixtures that they share
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Change the order of the tests: that of the files, for several processes, and of those without a cluster.

    Tests that need a cluster share one with others of their file, which keep their order.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=_when)
    if seed := config.getoption("--shuffle"):
        alone = [item for item in items if not item.get_closest_marker("cluster")]
        rest = [item for item in items if item.get_closest_marker("cluster")]
        random.Random(seed).shuffle(alone)
        items[:] = [*alone, *rest]


def _when(item: pytest.Item) -> int:
    file = item.path.relative_to(Path(__file__).parent).as_posix()
    if file in LONGEST_FILES:
        return LONGEST_FILES.index(file)
    return len(LONGEST_FILES) + (item.get_closest_marker("cluster") is None)


@pytest.hookimpl(trylast=True)  # once the report is counted
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """End the run where a test has failed since the engine locked up: every other would wait for minutes, and fail."""
    if not report.failed or "cluster" not in report.keywords or "PYTEST_XDIST_WORKER" in os.environ:
        return  # of several processes, the one that gathers the reports looks
    try:
        subprocess.run(["docker", "network", "ls"], capture_output=True, timeout=_ENGINE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pytest.exit(f"the Docker engine has not answered for {_ENGINE_TIMEOUT_S} s (docker network ls)")
    except FileNotFoundError:
        pass


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Return one line for all tests that are skipped for the same reason; pytest's own has one for each place."""
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(str(found[2] if isinstance(found, tuple) else found) for found in skipped)
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"SKIPPED [{number}] {reason.removeprefix('Skipped: ')}")
