"""Reading the inventory before and after an operation, which must neither fail nor hold up the operation."""

import asyncio
import logging

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.inventory import Inventory
from citus_cluster.operations.cluster import Cluster
from citus_cluster.runtime.citus.inventory import read_inventory

LIMIT_S = 3.0
logger = logging.getLogger(__name__)


async def look(cluster: Cluster) -> Inventory | None:
    """Return what the cluster consists of now; None if that cannot be read within a few seconds."""
    try:
        async with asyncio.timeout(LIMIT_S):
            return await cluster.on_coordinator(read_inventory)
    except (CitusClusterError, psycopg.Error, TimeoutError) as error:
        logger.info("what an operation changes cannot be compared: %s", error or type(error).__name__)
        return None
