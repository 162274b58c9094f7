"""Checks that each registered node serves queries: it answers, its Citus library matches, and it knows the cluster."""

from collections.abc import Sequence
from functools import partial

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.extension import OUTDATED
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.postgres import Connection, describe

# Every function of Citus fails if the versions of library and extension differ.
_SERVES = "SELECT to_json(count(*)) FROM citus_get_active_worker_nodes()"


async def troubles(conn: Connection, nodes: Sequence[RegisteredNode]) -> tuple[str, ...]:
    """Return one line for each active node that does not serve queries, with its name; bounded in time for each node.

    Nodes in maintenance are not asked: an operator knows of them.
    A node that does not answer in time is asked once more before it counts. Raises UnreachableError or psycopg.Error if
    the coordinator itself goes away.
    """
    found = []
    for node in nodes:
        if not node.is_active or node.in_maintenance:
            continue
        try:
            await citus_probe.ask_patiently(partial(_ask, conn, node))
        except citus_probe.ProbeUnavailableError:
            continue
        except CitusClusterError as error:
            if conn.closed:
                raise
            found.append(error.message)
        except psycopg.Error as error:
            if conn.closed:
                raise
            hint = " citus-cluster up updates the extension; make a backup first." if OUTDATED in str(error) else ""
            found.append(f"{node.address} does not serve queries: {describe(error)}.{hint}")
    return tuple(found)


async def _ask(conn: Connection, node: RegisteredNode, timeout_s: float) -> None:
    await citus_probe.ask_node(conn, node, _SERVES, timeout_s=timeout_s)
