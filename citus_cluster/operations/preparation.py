"""What components need of a coordinator that serves: each ``up`` makes what is missing, and so does the admin API.

The API imports this module, so it knows nothing of a generated directory.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.pooling import let_pooler_ask
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S
from citus_cluster.runtime.postgres import Connection


class _Prepare(Protocol):
    """Makes what one component needs, with the component's password; tells whether anything was missing."""

    async def __call__(self, conn: Connection, password: str, emit: Emit, *, wait_for_lock_s: float) -> bool: ...


NEEDED: Mapping[ComponentName, _Prepare] = {ComponentName.PGBOUNCER: let_pooler_ask}
"""By component, for those that need something."""


async def prepare_coordinator(
    conn: Connection,
    components: Iterable[ComponentName],
    password_of: Callable[[ComponentName], str],
    emit: Emit,
    *,
    wait_for_lock_s: float = WAIT_FOR_LOCK_S,
) -> None:
    """Make what these components need of the coordinator. Raises the first error, once the others are prepared.

    ``conn`` is a superuser's connection to the coordinator; ``password_of`` may raise CitusClusterError.
    """
    failure = None
    for component in components:
        if component in NEEDED:
            try:
                await NEEDED[component](conn, password_of(component), emit, wait_for_lock_s=wait_for_lock_s)
            except CitusClusterError as error:
                failure = failure or error
    if failure:
        raise failure
