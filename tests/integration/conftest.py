"""Real Citus servers for the SQL tests.

One set of servers for each image is started once in each process; ``cluster`` takes the cluster apart before each
test, so that every test begins with servers that know nothing of each other.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_support import citus_images, oldest_image, require_engine, skip_or_fail
from generated_cluster import GeneratedCluster
from sql_role_support import FIRST, SECOND, forget_roles
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers, register

from citus_cluster.operations.roles.passwords import CredentialStore


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "servers" in metafunc.fixturenames:
        images: list[str | None] = list(citus_images().values()) or [None]
        if "only_newest" in metafunc.fixturenames:
            images = images[-1:]
        metafunc.parametrize("servers", images, indirect=True, scope="session", ids=lambda image: image or "no-image")


@pytest.fixture(scope="session")
def started() -> Iterator[dict[str, Servers]]:
    """The servers of each image that a test has asked for; they run until the last test of this process."""
    running: dict[str, Servers] = {}
    yield running
    for one in running.values():
        one.remove()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, started: dict[str, Servers]) -> Servers:
    engine = require_engine()
    if request.param is None:
        skip_or_fail("the engine has no image citusdata/citus")
    image = str(request.param)
    if image not in started:
        name = f"citus-sql-test-{os.getpid()}-{secrets.token_hex(3)}"
        started[image] = Servers(engine, image, engine.networks.create(name))
        started[image].start_all(COORDINATOR.host, *(worker.host for worker in WORKERS))
    return started[image]


@pytest.fixture
def cluster(request: pytest.FixtureRequest, servers: Servers) -> Servers:
    for address in (COORDINATOR, *WORKERS):
        servers.wait(address.host)  # one may still be recovering from what the test before did to it
    # Most tests of roles follow another that has registered the same workers.
    if "credentials" in request.fixturenames and servers.is_cluster_of(FIRST, SECOND):
        servers.empty()
    else:
        servers.take_apart()
    return servers


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def only_newest() -> None:
    """For tests of our own behaviour, where one image tells as much as all: see ``pytest_generate_tests``."""


@pytest.fixture
def credentials(cluster: Servers, tmp_path: Path) -> Iterator[CredentialStore]:
    """Two registered workers, a distributed, a reference and a local table, and no role."""
    register(cluster, FIRST, SECOND)
    cluster.sql(
        COORDINATOR.host,
        "CREATE TABLE items (id bigserial PRIMARY KEY, n int)",
        "SELECT create_distributed_table('items', 'id', shard_count => 4)",
        "CREATE TABLE kinds (id int PRIMARY KEY)",
        "SELECT create_reference_table('kinds')",
        "CREATE TABLE notes (id int)",
        "INSERT INTO items (n) SELECT generate_series(1, 100)",
        "INSERT INTO kinds SELECT generate_series(1, 10)",
    )
    try:
        yield CredentialStore(cluster.info(COORDINATOR.host), tmp_path)
    finally:
        cluster.empty()
        cluster.sql(COORDINATOR.host, "DROP TABLE IF EXISTS notes")
        forget_roles(cluster)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[GeneratedCluster]:
    """A directory of its own, in which nothing is generated yet."""
    cluster = GeneratedCluster(tmp_path / "cluster", oldest_image())
    cluster.root.mkdir()
    try:
        yield cluster
    finally:
        cluster.remove()
