"""Real Citus servers for the SQL tests.

One set of servers for each image is started once; ``cluster`` takes the cluster apart before each test, so
that every test begins with servers that know nothing of each other.
"""

import os
import secrets
from collections.abc import Iterator

import pytest
from cluster_support import citus_images, require_engine, skip_or_fail
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "servers" in metafunc.fixturenames:
        images: list[str | None] = list(citus_images().values()) or [None]
        if "only_newest" in metafunc.fixturenames:
            images = images[-1:]
        metafunc.parametrize("servers", images, indirect=True, scope="session", ids=lambda image: image or "no-image")


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    engine = require_engine()
    if request.param is None:
        skip_or_fail("the engine has no image citusdata/citus")
    name = f"citus-sql-test-{os.getpid()}-{secrets.token_hex(3)}"
    started = Servers(engine, request.param, engine.networks.create(name))
    try:
        for address in (COORDINATOR, *WORKERS):
            started.start(address.host)
        for address in (COORDINATOR, *WORKERS):
            started.wait(address.host)
        yield started
    finally:
        started.remove()


@pytest.fixture
def cluster(servers: Servers) -> Servers:
    for address in (COORDINATOR, *WORKERS):
        servers.wait(address.host)  # one may still be recovering from what the test before did to it
    servers.take_apart()
    return servers


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def only_newest() -> None:
    """For tests of our own behaviour, where one image tells as much as all: see ``pytest_generate_tests``."""
