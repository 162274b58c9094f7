"""Let Citus decode the WAL with its own library, where PostgreSQL has a list of the libraries that may do this."""

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.decoding import KNOWS_THE_LIST, OWN_LIBRARY, allow_libraries, lacks_own_library
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.postgres import Connection, translated


async def let_citus_decode(conn: Connection, emit: Emit, *, wait_for_lock_s: float = WAIT_FOR_LOCK_S) -> bool:
    """Add Citus' library to the default list, on every node. Returns whether anything had to change.

    ``conn`` is a superuser's connection. Nothing changes while a node is silent or has no such list, because its
    PostgreSQL is older: Citus could not change it there. The next call tries again. Raises CitusClusterError.
    """
    async with translated("looking at the libraries that decode the WAL"):
        if await lacks_own_library(conn) is None or not await _all_know_it(conn):
            return False
    async with translated("allowing Citus to decode the WAL"), writer_lock(conn, wait_s=wait_for_lock_s):
        libraries = await lacks_own_library(conn)
        if libraries is None:
            return False
        await allow_libraries(conn, (*libraries, OWN_LIBRARY))
    emit(Event("output-plugin", EventKind.DONE, "Citus may decode the WAL now, which splits of shards need"))
    return True


async def _all_know_it(conn: Connection) -> bool:
    for node in (await read_registry(conn)).nodes:
        if not node.is_active:
            continue
        try:
            if not await citus_probe.ask_node(conn, node, KNOWS_THE_LIST):
                return False
        except (CitusClusterError, psycopg.Error):
            if conn.closed:
                raise
            return False
    return True
