"""Clusters that the end-to-end tests start, one set for each Citus image on the engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_support import citus_images, oldest_image, require_engine, skip_or_fail
from generated_cluster import GeneratedCluster
from pair_support import PRIMARY, Pair, until

Make = Callable[[], GeneratedCluster]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "image" in metafunc.fixturenames:
        images: list[str | None] = [*citus_images().values()] or [None]
        metafunc.parametrize("image", images, indirect=True, scope="module", ids=lambda image: image or "no-image")


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest) -> str:
    require_engine()
    if request.param is None:
        skip_or_fail("the engine has no image citusdata/citus")
    return str(request.param)


@pytest.fixture(scope="session")
def default_image() -> str:
    return oldest_image()


@pytest.fixture
def make_cluster(default_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    made: list[GeneratedCluster] = []

    def make() -> GeneratedCluster:
        made.append(GeneratedCluster(tmp_path_factory.mktemp("cluster"), default_image))
        return made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def cluster(make_cluster: Make) -> GeneratedCluster:
    return make_cluster()


@pytest.fixture
def make_pair(cluster: GeneratedCluster) -> Callable[..., Pair]:
    def make(*options: str) -> Pair:
        cluster.create("--services=pg14", "--up", *options)
        return Pair(cluster)

    return make


@pytest.fixture(scope="module")
def shared_pairs(default_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pair]]:
    """The pairs that a module has started for ``pair``: one, and another for each time that a test left it broken."""
    started: list[Pair] = []
    yield started
    for one in started:
        one.cluster.remove()


@pytest.fixture
def pair(shared_pairs: list[Pair], default_image: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair that Compose alone has started, without the table ``t``; the tests of a file share it."""
    if not shared_pairs or not shared_pairs[-1].is_as_it_began():
        cluster = GeneratedCluster(tmp_path_factory.mktemp("pair"), default_image)
        cluster.create("--services=pg14")
        shared_pairs.append(Pair(cluster))
        cluster.compose("up", "-d", "--wait")
        until(shared_pairs[-1].follows)
    one = shared_pairs[-1]
    one.sql(PRIMARY, "DROP TABLE IF EXISTS t")
    return one


@pytest.fixture(scope="module")
def main_cluster(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    """One cluster for each image, grown and restarted by the tests of a module in their order."""
    one = GeneratedCluster(Path(tmp_path_factory.mktemp("main")), image)
    yield one
    one.remove()
