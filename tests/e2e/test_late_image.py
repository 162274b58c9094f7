"""A companion's image that is not here keeps Citus from nothing."""

import pytest
from cluster_support import require_engine, require_images
from generated_cluster import GeneratedCluster

pytestmark = pytest.mark.cluster


def test_citus_starts_while_a_companions_image_cannot_be_fetched(cluster: GeneratedCluster) -> None:
    require_images("redis:7")
    absent = f"localhost:1/{cluster.name}/redis:7"  # nobody listens there
    cluster.create("--workers=1", "--services=citus,redis", f"--redis-image={absent}")
    up = cluster.cli("up", check=False)
    assert up.status == 1
    assert "registered and verified" in up.out
    assert f"The image {absent} is missing." in up.err
    assert "or use another image: --redis-image." in up.err
    assert "Citus is running." in up.err
    assert cluster.active_workers() == ["citus-worker1"]
    assert cluster.cli("status", check=False).status == 1
    # Got from elsewhere, as the message says: docker load.
    engine = require_engine()
    engine.images.get("redis:7").tag(absent)
    try:
        assert cluster.cli("up", "--format=json").json()["companions"] == ["redis"]
    finally:
        cluster.remove()
        engine.images.remove(absent)
