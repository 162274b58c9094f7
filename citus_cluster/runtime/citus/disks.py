"""The disk usage of each node, as the node itself reports it."""

from typing import cast

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.disks import Disk
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.postgres import Connection

DISK_QUESTION = psycopg.sql.SQL(
    "SELECT json_build_array(total_disk_size, available_disk_size) FROM citus_local_disk_space_stats()"
)
"""Query for a node's disk; ``disk_of`` reads the answer."""
_RESERVED = 20
"""The largest share of the disk that is reserved for root, as a fraction 1/n."""


def disk_of(node: RegisteredNode, answer: object) -> Disk | None:
    """Read a node's answer; None if it has no sizes, for example of a file system that reports none.

    Citus counts blocks that the file system reserves for root (``f_bfree``) as free, although PostgreSQL cannot use
    them: 5 % on ext4. They are subtracted, so that a full disk is reported early rather than late.
    """
    if not isinstance(answer, list) or not answer[0]:
        return None
    total_bytes, free_bytes = cast("list[int]", answer)
    return Disk(str(node.address), total_bytes, max(0, free_bytes - total_bytes // _RESERVED))


async def read_disks(conn: Connection, *, measured_bytes: int = 0) -> tuple[Disk, ...]:
    """Ask every active node, one round trip each. Nodes that do not answer are skipped.

    ``measured_bytes`` is the size of the local disk, which is measured directly: nodes of this Compose project on a
    disk of that size are skipped too.
    """
    found = []
    for node in (await read_registry(conn)).nodes:
        if not node.is_active:
            continue
        try:
            answer = await citus_probe.ask_node(conn, node, DISK_QUESTION.as_string(conn))
        except (CitusClusterError, psycopg.Error):
            if conn.closed:
                raise
            continue
        disk = disk_of(node, answer)
        if disk and not (node.address.is_service and disk.total_bytes == measured_bytes):
            found.append(disk)
    return tuple(found)
