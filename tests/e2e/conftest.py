"""Clusters that the end-to-end tests start, one set for each Citus image on the engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_support import citus_images, oldest_image, require_engine, skip_or_fail
from generated_cluster import GeneratedCluster
from pair_support import Pair

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


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair()


@pytest.fixture(scope="module")
def main_cluster(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    """One cluster for each image, grown and restarted by the tests of a module in their order."""
    one = GeneratedCluster(Path(tmp_path_factory.mktemp("main")), image)
    yield one
    one.remove()
