"""Having the coordinator let PgBouncer ask for its clients: made where it is not as it should be."""

from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.citus.pooling import look_at_pooler, prepare_pooler
from citus_cluster.runtime.postgres import Connection, translated

_STEP = "pgbouncer-role"


async def let_pooler_ask(
    conn: Connection, password: str, emit: Emit, *, wait_for_lock_s: float = WAIT_FOR_LOCK_S
) -> bool:
    """Give PgBouncer its role and function on the coordinator; tells whether anything had to be changed.

    ``conn`` is a superuser's. Raises RoleError for a role of this name that was not made here, LockedError.
    """
    async with translated("looking at PgBouncer's role"):
        if (await look_at_pooler(conn, password)).ready:
            return False
    async with translated("making PgBouncer's role"), writer_lock(conn, wait_s=wait_for_lock_s):
        found = await look_at_pooler(conn, password)
        if found.ready:
            return False
        await prepare_pooler(conn, password, found)
    emit(Event(_STEP, EventKind.DONE, "the coordinator has the role and the function that PgBouncer needs"))
    return True
