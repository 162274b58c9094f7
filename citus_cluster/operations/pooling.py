"""PgBouncer's role and function on the coordinator, which are created or corrected as needed."""

from citus_cluster.errors import RoleError
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.pooling import POOLER_ROLE
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.citus.pooling import FUNCTION, Pooler, look_at_pooler, prepare_pooler
from citus_cluster.runtime.postgres import Connection, translated

_STEP = "pgbouncer-role"


async def let_pooler_ask(
    conn: Connection, password: str, emit: Emit, *, wait_for_lock_s: float = WAIT_FOR_LOCK_S
) -> bool:
    """Create or correct PgBouncer's role and function on the coordinator. Returns whether anything had to change.

    ``conn`` is a superuser's connection. Raises RoleError for a role of this name that this tool did not create, and
    LockedError.
    """
    async with translated("checking PgBouncer's role"):
        if (await look_at_pooler(conn, password)).ready:
            return False
    async with translated("creating PgBouncer's role"), writer_lock(conn, wait_s=wait_for_lock_s):
        found = await look_at_pooler(conn, password)
        if found.ready:
            return False
        await prepare_pooler(conn, password, found)
    emit(Event(_STEP, EventKind.DONE, "the coordinator has the role and the function that PgBouncer needs"))
    return True


async def why_pooler_cannot_ask(conn: Connection, password: str) -> str | None:
    """Return what prevents logins of PgBouncer's clients on the coordinator, and how to repair it; None otherwise.

    ``conn`` is a superuser's connection. Changes nothing.
    """
    try:
        async with translated("looking at PgBouncer's role"):
            found = await look_at_pooler(conn, password)
    except RoleError as error:
        return f"{error.message} {error.hint}"
    if found.ready:
        return None
    return f"{_defect(found)}, so clients may be refused: run citus-cluster up, which repairs it"


def _defect(found: Pooler) -> str:
    if not found.exists:
        return f"role {POOLER_ROLE} is missing on the coordinator"
    if not found.password:
        return f"role {POOLER_ROLE} has another password on the coordinator than in generated/secrets"
    if not found.role:
        return f"role {POOLER_ROLE} does not have exactly the rights on the coordinator that PgBouncer needs"
    return f"function {FUNCTION} is missing or was changed on the coordinator"
