"""The metrics of nodes that are no active primaries."""

import asyncio
from typing import cast

from admin_api.metrics import families
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
