"""The metrics of nodes that are no active primaries."""

import asyncio
import re
from typing import cast

import virtual_time

from admin_api.metrics import Metrics, families
from admin_api.reconciler import Reconciler
from admin_api.sampler import Sample
from citus_cluster.model.citus.figures import Catalog, CatalogNode
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.disks import Disk

NODES = (
    (RegisteredNode(1, 0, NodeAddress("c"), True, "primary", False), True),
    (RegisteredNode(2, 1, NodeAddress("w"), True, "primary", True), False),
    (RegisteredNode(3, 1, NodeAddress("standby"), True, "secondary", True), False),
    (RegisteredNode(4, 2, NodeAddress("disabled"), False, "primary", True), False),
)


def test_only_nodes_that_get_the_metadata_can_lack_it() -> None:
    """An alert fires for each node without it: Citus sends none to a standby or to a disabled node."""
    catalog = Catalog(tuple(CatalogNode(node, synced) for node, synced in NODES), 0, {})

    async def body() -> dict[str, float]:
        found = families(Sample(catalog=catalog), cast("Reconciler", None), None, Disk("own", 100, 50))
        (family,) = [one for one in found if one.name == "citus_cluster_node_metadata_synced"]
        return {sample.labels["node"]: sample.value for sample in family.samples}

    assert asyncio.run(body()) == {"c:5432": 1, "w:5432": 0}


def test_a_text_is_sent_again_for_a_second_unless_there_is_a_new_sample() -> None:
    metrics, first, second = Metrics(), Sample(rounds=1), Sample(rounds=2)

    async def rounds(sample: Sample, after_s: float = 0.0) -> str:
        await asyncio.sleep(after_s)
        found = families(sample, cast("Reconciler", None), None, Disk("own", 100, 50))
        text, _ = metrics.render(sample, lambda: found, "")
        metrics.http.requests.labels("/", "GET", "200").inc()
        kept = re.compile(r"citus\w+(rounds|requests)_total")
        return ", ".join(line for line in text.decode().splitlines() if kept.match(line))

    async def body() -> list[str]:
        return [await rounds(first), await rounds(first, 0.9), await rounds(second), await rounds(second, 1.1)]

    request = 'citus_cluster_http_requests_total{method="GET",route="/",status="200"}'
    assert virtual_time.run(body()) == [
        "citus_cluster_sample_rounds_total 1.0",
        "citus_cluster_sample_rounds_total 1.0",
        f"citus_cluster_sample_rounds_total 2.0, {request} 2.0",
        f"citus_cluster_sample_rounds_total 2.0, {request} 3.0",
    ]
