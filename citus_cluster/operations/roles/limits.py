"""Setting the limits of roles: time and temporary files on every node, sessions only on the coordinator."""

from collections.abc import Mapping

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.role_limits import (
    SETTINGS,
    FoundLimits,
    Limit,
    differing,
    in_words,
    risks,
    wanted_limits,
)
from citus_cluster.model.citus.roles import NodeRoles, RoleRecord
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.operations.roles.cluster import ChangeReport, Cluster
from citus_cluster.runtime.citus import limits as citus_limits
from citus_cluster.runtime.citus import roles as citus_roles
from citus_cluster.runtime.postgres import Connection


def found_limits(here: NodeRoles, role: str) -> FoundLimits:
    """Return the limits of a role on a node."""
    return FoundLimits.read(*here.limits.get(role, (-1, ())))


async def limit(conn: Connection, cluster: Cluster, record: RoleRecord, report: ChangeReport, emit: Emit) -> None:
    """Set the limits of a role on nodes that have different ones; do nothing if its limits are not managed here."""
    wanted = wanted_limits(record.access, record.limits)
    if wanted is None:
        return
    different: set[Limit] = set()
    for node in cluster.nodes:
        here = found_limits(await citus_roles.node_roles(conn, node), record.name)
        found = differing(wanted, here, on_coordinator=node.is_coordinator)
        different |= {one for one in found if one in SETTINGS}
        if Limit.CONNECTIONS in found:
            different.add(Limit.CONNECTIONS)
            if node.is_coordinator:
                value = wanted[Limit.CONNECTIONS]
                await citus_limits.limit_sessions(conn, record.name, None if value is None else int(value))
            else:
                await citus_limits.lift_sessions(conn, node.address, [record.name])
    for one in SETTINGS:
        if one in different:
            await citus_limits.set_setting(conn, record.name, one, wanted[one])
    if different:
        report(f"limits of role {record.name}: {in_words(wanted)}")
    if risk := risks(record.access, wanted):
        emit(Event(f"limits:{record.name}", EventKind.WARNING, risk))


def in_force(record: RoleRecord) -> Mapping[str, str | None] | None:
    """Return the limits of a role by name, None for no limit; return None if its limits are not managed here."""
    wanted = wanted_limits(record.access, record.limits)
    return None if wanted is None else {limit.value: value for limit, value in wanted.items()}


def other_limits(record: RoleRecord | None, nodes: Mapping[RegisteredNode, NodeRoles]) -> tuple[NodeAddress, ...]:
    """Return the nodes on which the limits of a role differ from the wanted ones."""
    wanted = wanted_limits(record.access, record.limits) if record else None
    if record is None or wanted is None:
        return ()
    return tuple(
        node.address
        for node, here in nodes.items()
        if record.name in here.roles
        and differing(wanted, found_limits(here, record.name), on_coordinator=node.is_coordinator)
    )
