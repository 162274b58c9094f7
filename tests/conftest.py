import signal

import pytest

# A shell without job control starts what runs in the background with SIGINT ignored, and programs inherit that: those
# that tests start and interrupt would never notice.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Write tests/golden/expected anew.")
