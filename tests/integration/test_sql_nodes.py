"""Registering workers on real servers."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from conftest import COORDINATOR, WORKERS, Servers

from citus_cluster.model.events import ignore
from citus_cluster.model.nodes import NodeAddress, NodeResult
from citus_cluster.operations.nodes import reconcile
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

NODES = "SELECT nodename, isactive, shouldhaveshards FROM pg_dist_node ORDER BY groupid"


def on[T](cluster: Servers, act: Callable[[Connection], Awaitable[T]]) -> T:
    """Run a coroutine over a connection to the coordinator."""

    async def body() -> T:
        conn = await cluster.connect()
        async with conn:
            return await act(conn)

    return asyncio.run(body())


def register(cluster: Servers, *workers: NodeAddress, **options: float) -> dict[str, NodeResult]:
    results = on(cluster, lambda conn: reconcile(conn, COORDINATOR, workers or WORKERS, ignore, **options))
    return {result.address.host: result for result in results}
