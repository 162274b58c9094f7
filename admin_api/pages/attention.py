"""What needs attention first, each with the command that fixes it, or a link to the page that does."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from admin_api.pages.cells import seconds
from citus_cluster.model.citus.diagnosis import Cause
from citus_cluster.model.citus.figures import CROWDED_PART, KEPT_WAL_BYTES, OLD_PREPARED_S, NodeFigures
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.disks import Disk, disk_alerts
from citus_cluster.model.operation import Operation, OperationState
from citus_cluster.model.units import size

_DISK_USAGE = "docker system df -v"


@dataclass(frozen=True)
class Attention:
    """One thing that an operator should do. ``tone`` is bad or careful.

    ``command`` fixes it; if it is that of a change, the page offers its form too. ``url`` is a page that shows more.
    """

    tone: str
    message: str
    command: str | None = None
    url: str | None = None
    action: str | None = None


def of_nodes(rows: Iterable[Any]) -> list[Attention]:
    """Return what is wrong with the nodes (``NodeRow``)."""
    found = []
    for row in rows:
        if row.answers is False:
            address = NodeAddress(row.host, row.port)
            message = (row.reason or f"{row.node} does not answer").rstrip(".")
            message += f". If it is paused: {address.compose_command('unpause')}"
            found.append(Attention("bad", message, address.compose_command("start")))
        elif row.in_maintenance:
            message = f"{row.node} is in maintenance."
            found.append(Attention("careful", message, f"citus-cluster nodes resume {row.node}"))
        elif not row.is_active:
            message = f"{row.node} is not active: Citus sends it no queries."
            found.append(Attention("careful", message, f"citus-cluster nodes activate {row.node}"))
        elif row.has_metadata and not row.metadata_synced:
            found.append(Attention("careful", f"The metadata of {row.node} are not up to date."))
    return found


def of_drift(rows: Iterable[Any], silent: Set[str]) -> list[Attention]:
    """Return the differences between the cluster and its files that matter; ``silent`` nodes are shown already."""
    return [
        Attention("bad" if row.severity.value == "error" else "careful", row.message, row.fix)
        for row in rows
        if row.severity.value != "info" and row.node not in silent
    ]


def of_disks(disks: Iterable[Disk]) -> list[Attention]:
    """Return the disks that fill up."""
    alerts = disk_alerts(disks)
    found = [Attention("bad", line, _DISK_USAGE) for line in alerts.alarms]
    return found + [Attention("careful", line, _DISK_USAGE) for line in alerts.warnings]


def of_figures(figures: Mapping[NodeAddress, NodeFigures]) -> list[Attention]:
    """Return what the figures of the nodes say: the same limits as the alerts of the monitoring."""
    found = []
    for node, one in figures.items():
        if one.connections_part >= CROWDED_PART:
            used = f"{one.connections} of {one.max_connections}"
            if one.client_limit and one.external_connections / one.client_limit >= CROWDED_PART:
                used = f"{one.external_connections} of {one.client_limit} client"
            message = f"{node} has used {used} connections. At the limit, it refuses clients."
            command = "citus-cluster activity list --idle"
            found.append(Attention("careful", message, command, "/activity?idle=true", "See the sessions"))
        if one.oldest_prepared_s > OLD_PREPARED_S:
            message = f"A prepared transaction on {node} is {seconds(one.oldest_prepared_s)} old, and keeps its locks."
            found.append(Attention("careful", message, "citus-cluster consistency recover"))
        if one.slot_lag_bytes > KEPT_WAL_BYTES:
            message = f"A replication slot on {node} keeps {size(one.slot_lag_bytes)} of WAL, which fills its disk."
            command = "citus-cluster consistency orphans"
            found.append(Attention("careful", message, command, "/views/consistency-orphans", "See what is left over"))
        if (one.lag_bytes or 0) > KEPT_WAL_BYTES:
            message = f"A standby of {node} has not replayed {size(one.lag_bytes)} of WAL."
            found.append(Attention("careful", message, "citus-cluster status"))
    return found


def of_companions(statuses: Iterable[CompanionStatus]) -> list[Attention]:
    """Return the services beside Citus that are not well."""
    return [
        Attention(
            "bad" if one.condition is Condition.DOWN else "careful",
            f"{one.service.value} is {one.condition.value}: {one.reason or 'no reason is known'}",
            f"citus-cluster status {one.service.value}",
            "/services",
            "Services",
        )
        for one in statuses
        if one.condition is not Condition.OK
    ]


def of_operations(operations: Iterable[Operation]) -> list[Attention]:
    """Return the latest operation of each kind that was interrupted or has failed, and was not repeated since."""
    found, seen = [], set()
    for one in operations:
        if one.kind in seen:
            continue
        seen.add(one.kind)
        if one.state in {OperationState.INTERRUPTED, OperationState.FAILED}:
            message = f"Operation {one.id} ({one.kind}) {'was' if one.state is OperationState.INTERRUPTED else 'has'} "
            message += f"{one.state.value}." + (f" {one.last_message}" if one.last_message else "")
            found.append(Attention("careful", message, None, f"/operations/{one.id}", "See the operation"))
    return found


def of_diagnosis(rows: Iterable[Any], silent: Set[str]) -> list[Attention]:
    """Return why a rebalance does not continue, and what earlier ones left; ``silent`` nodes are shown already."""
    return [
        Attention("bad", row.message, row.remedy, "/rebalance", "Rebalance")
        for row in rows
        if row.cause is not Cause.SILENT_NODE or row.node not in silent
    ]


def in_order(found: Iterable[Attention]) -> list[Attention]:
    """Return what stops queries first, and what several views have found only once."""
    unique: dict[str, Attention] = {}
    for one in found:
        unique.setdefault(one.message, one)
    return sorted(unique.values(), key=lambda one: one.tone != "bad")
