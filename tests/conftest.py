import os
import random
import signal
import subprocess
from collections import Counter

import pytest

_ENGINE_TIMEOUT_S = 60

LONGEST_FILES = (
    "e2e/test_leaving.py",
    "e2e/test_faults.py",
    "e2e/test_monitoring.py",
    "e2e/test_console.py",
    "e2e/test_cassandra.py",
    "e2e/test_example_read_write_split.py",
    "e2e/test_pg14_promotion.py",
    "e2e/test_example_sharding.py",
    "e2e/test_whole_stack.py",
    "e2e/test_rebalance_faults.py",
    "e2e/test_example_users.py",
    "lessons/test_checks.py",
    "integration/test_sql_drain.py",
    "e2e/test_main_job.py",
    "e2e/test_pg14.py",
    "e2e/test_earlier_version.py",
    "e2e/test_two_servers.py",
    "e2e/test_roles.py",
    "integration/test_up.py",
    "e2e/test_engine_restart.py",
)
"""With several processes, these files begin first, because the longest file determines the end of the run."""

# A shell without job control starts background commands with SIGINT ignored, and their children inherit that: programs
# that tests start and interrupt would ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write tests/golden/expected anew.")
    parser.addoption("--update-screenshots", action="store_true", help="Take the pictures of docs/console.md anew.")
    parser.addoption("--shuffle", metavar="SEED", help="Run the tests without a cluster in another order.")


@pytest.hookimpl(trylast=True)  # once tests are grouped by the fixtures that they share
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Change the order of the files, for several processes, and of the tests without a cluster.

    Tests that need a cluster keep their order, because they share it with other tests of their file.
    """
    if hasattr(config, "workerinput"):
        items.sort(key=_when)
    if seed := config.getoption("--shuffle"):
        alone = [item for item in items if not item.get_closest_marker("cluster")]
        rest = [item for item in items if item.get_closest_marker("cluster")]
        random.Random(seed).shuffle(alone)
        items[:] = [*alone, *rest]


def _when(item: pytest.Item) -> int:
    file = item.nodeid.partition("::")[0].removeprefix("tests/")
    if file in LONGEST_FILES:
        return LONGEST_FILES.index(file)
    return len(LONGEST_FILES) + (item.get_closest_marker("cluster") is None)


@pytest.hookimpl(trylast=True)  # once the report is counted
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """End the run if a test failed because the engine hangs: every other test would wait for minutes, and fail."""
    if not report.failed or "cluster" not in report.keywords or "PYTEST_XDIST_WORKER" in os.environ:
        return  # with several processes, only the one that collects the reports checks
    try:
        subprocess.run(["docker", "network", "ls"], capture_output=True, timeout=_ENGINE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pytest.exit(f"the Docker engine has not answered for {_ENGINE_TIMEOUT_S} s (docker network ls)")
    except FileNotFoundError:
        pass


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line for all tests that are skipped for the same reason; pytest prints one for each place."""
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    reasons = Counter(str(found[2] if isinstance(found, tuple) else found) for found in skipped)
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"SKIPPED [{number}] {reason.removeprefix('Skipped: ')}")
