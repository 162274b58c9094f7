"""Having ``up`` make what components need of the coordinator."""

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.preparation import NEEDED, prepare_coordinator
from citus_cluster.runtime.postgres import connect

_CONNECT_TIMEOUT_S = 10.0


async def prepare_coordinator_of(directory: Directory, emit: Emit) -> CitusClusterError | None:
    """Make what the components of a directory need, with its passwords. Returns the first error."""
    wanted = [component for component in directory.topology.components if component in NEEDED]
    if not wanted:
        return None
    try:
        async with await connect(directory.coordinator(), timeout_s=_CONNECT_TIMEOUT_S) as conn:
            await prepare_coordinator(conn, wanted, directory.password_of, emit)
    except CitusClusterError as error:
        return error
    return None
