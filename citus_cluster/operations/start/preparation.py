"""What the components of a directory need on the coordinator: ``up`` creates it, ``status`` reports what is missing."""

from collections.abc import Mapping

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.accounts import make_accounts
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.listeners import Listeners
from citus_cluster.operations.preparation import lacks_on_coordinator, needs_coordinator, prepare_coordinator
from citus_cluster.runtime.docker.project import Project
from citus_cluster.runtime.postgres import connect

_CONNECT_TIMEOUT_S = 10.0


async def prepare_coordinator_of(directory: Directory, emit: Emit) -> CitusClusterError | None:
    """Create what the components of a directory need, with its passwords. Returns the first error."""
    wanted = _wanted(directory)
    if not wanted:
        return None
    try:
        async with await connect(directory.coordinator(), timeout_s=_CONNECT_TIMEOUT_S) as conn:
            failures = await prepare_coordinator(conn, wanted, directory.secret, emit)
    except CitusClusterError as error:
        return error
    return next(iter(failures.values()), None)


async def make_accounts_of(directory: Directory, component: ComponentName, emit: Emit) -> None:
    """Make the accounts that applications of a directory have on a component beside Citus, whose services are ready.

    Raises RoleError, UnreachableError.
    """
    topology = directory.topology
    accounts = topology.accounts_on(component)
    if not accounts:
        return
    target = Target.of(component, topology.of(component), lambda one: NodeAddress(topology.connect_host, one.host_port))
    doubt = (await Listeners.look(Project(topology.name))).doubt
    await make_accounts(target, directory.password_of(component), accounts, directory.secret, doubt, emit)


async def lacks_of(directory: Directory) -> Mapping[ComponentName, str]:
    """Return what is wrong on the coordinator for the components of a directory; empty if it does not answer."""
    wanted = _wanted(directory)
    if not wanted:
        return {}
    try:
        async with await connect(directory.coordinator(), timeout_s=_CONNECT_TIMEOUT_S) as conn:
            return await lacks_on_coordinator(conn, wanted, directory.secret)
    except CitusClusterError:
        return {}


def _wanted(directory: Directory) -> list[ComponentName]:
    return [component for component in directory.topology.components if needs_coordinator(component)]
