"""What each server of the cluster runs, and how the cluster differs from its files: decisions from their reports."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.citus.removal import called
from citus_cluster.model.documents import Documented
from citus_cluster.model.tuning.parameters import UnusedSetting


class DriftSeverity(StrEnum):
    """How urgent a difference is."""

    ERROR = "error"
    """Queries fail, or will fail."""
    WARNING = "warning"
    """The cluster works, but not as its files say."""
    INFO = "info"
    """An operator did this, or it is the state of another host."""


@dataclass(frozen=True)
class ServerReport:
    """What one server reports about itself. Versions are texts such as ``17.6``, ``13.2.2`` and ``13.2-1``."""

    postgres_version: str
    citus_version: str | None
    extension: ExtensionVersions
    unused: tuple[UnusedSetting, ...] = ()


@dataclass(frozen=True)
class NodeVersions(Documented):
    """The versions of one node; None if it did not answer, for the ``reason``.

    ``extension_version`` is that in the database, ``extension_available`` that in the image.
    """

    node: str
    role: str
    postgres_version: str | None
    citus_version: str | None
    extension_version: str | None
    extension_available: str | None
    settings_waiting_for_restart: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class NodeCounts(Documented):
    """Numbers of nodes of each kind."""

    workers: int
    active_workers: int
    secondaries: int
    in_maintenance: int
    holding_shards: int


@dataclass(frozen=True)
class ClusterState(Documented):
    """The cluster: its coordinator, the versions of its nodes, its topology, and what this version of Citus can do.

    ``matches``: whether the library of Citus on the coordinator serves the extension in the database. ``capabilities``
    maps each feature to whether the server has its function.
    """

    database: str
    coordinator: str | None
    postgres_version: str
    citus_version: str
    extension_version: str
    extension_available: str
    matches: bool
    counts: NodeCounts
    capabilities: Mapping[str, bool]
    nodes: tuple[NodeVersions, ...]


@dataclass(frozen=True)
class Drift(Documented):
    """One difference. ``item`` names it uniquely; ``fix`` is the command or statement that ends it."""

    item: str
    severity: DriftSeverity
    node: str | None
    message: str
    fix: str | None = None


@dataclass(frozen=True)
class Observed:
    """The cluster as it is: ``reports`` of the nodes that answered, and ``silent`` ones with the reason, by node id."""

    registry: Registry
    unsynced: frozenset[int] = frozenset()
    reports: Mapping[int, ServerReport] = field(default_factory=dict)
    silent: Mapping[int, str] = field(default_factory=dict)


def drift(
    observed: Observed, coordinator: NodeAddress | None, workers: Sequence[NodeAddress] | None
) -> tuple[Drift, ...]:
    """Compare the cluster with its files: the coordinator's address and the workers, None if there are no files."""
    return (
        *_coordinator_drift(observed.registry, coordinator),
        *(_worker_drift(observed.registry, workers) if workers is not None else ()),
        *_node_drift(observed),
        *_version_drift(observed),
        *_settings_drift(observed),
    )


def _coordinator_drift(registry: Registry, wanted: NodeAddress | None) -> Iterator[Drift]:
    here = registry.coordinator
    target = wanted or NodeAddress("HOST")
    if here is None:
        if registry.has_workers or wanted:
            yield Drift(
                "coordinator",
                DriftSeverity.ERROR,
                None,
                "The coordinator is not in the node list, so workers cannot reach it.",
                f"SELECT citus_set_coordinator_host('{target.host}', {target.port});",
            )
    elif wanted is not None and here.address != wanted:
        yield Drift(
            "coordinator",
            DriftSeverity.ERROR if here.address.host in {"localhost", "127.0.0.1", "::1"} else DriftSeverity.WARNING,
            str(here.address),
            f"The coordinator is in the node list as {here.address}, but its files say {wanted}.",
            f"citus-cluster nodes move {here.address} {wanted.host} --port {wanted.port}"
            if registry.has_workers
            else f"SELECT citus_set_coordinator_host('{wanted.host}', {wanted.port});",
        )


def _worker_drift(registry: Registry, wanted: Sequence[NodeAddress]) -> Iterator[Drift]:
    unknown = {
        node.address: node
        for node in registry.nodes
        if node.role == "primary" and not node.is_coordinator and node.address not in wanted
    }
    for address in wanted:
        if registry.find(address):
            continue
        moved = next((other for other in unknown if other.host == address.host), None)
        if moved:
            del unknown[moved]
            yield Drift(
                f"port {address}",
                DriftSeverity.ERROR,
                str(moved),
                f"{moved} is in the node list, but the files have this worker at port {address.port}.",
                f"citus-cluster nodes move {moved} {address.host} --port {address.port}",
            )
        elif address in (registry.recorded or ()):
            yield Drift(
                f"removed {address}",
                DriftSeverity.WARNING,
                str(address),
                f"{address} is in cluster.yaml, but an operator removed it from the node list.",
                f"citus-cluster nodes remove {called(address)}",
            )
        else:
            yield Drift(
                f"missing {address}",
                DriftSeverity.ERROR,
                str(address),
                f"{address} is in cluster.yaml, but not in the node list.",
                f"citus-cluster nodes add --host {address.host} --port {address.port}",
            )
    for address in unknown:
        yield Drift(
            f"unknown {address}",
            DriftSeverity.WARNING if address.is_service else DriftSeverity.INFO,
            str(address),
            f"{address} is in the node list, but not in cluster.yaml"
            + ("." if address.is_service else "; it may belong to the directory of another host."),
            f"citus-cluster nodes drain {called(address)} --wait" if address.is_service else None,
        )


def _node_drift(observed: Observed) -> Iterator[Drift]:
    for node in observed.registry.nodes:
        name = str(node.address)
        if node.in_maintenance:
            fix = f"citus-cluster nodes resume {called(node.address)}"
            yield Drift(f"maintenance {name}", DriftSeverity.INFO, name, f"{name} is in maintenance.", fix)
            continue
        if not node.is_active:
            fix = f"citus-cluster nodes activate {called(node.address)}"
            yield Drift(f"inactive {name}", DriftSeverity.WARNING, name, f"{name} is not active.", fix)
        if reason := observed.silent.get(node.node_id):
            fix = node.address.compose_command("start")
            yield Drift(f"silent {name}", DriftSeverity.ERROR, name, reason, fix)
        if node.node_id in observed.unsynced and node.is_active:
            yield Drift(
                f"unsynced {name}",
                DriftSeverity.WARNING,
                name,
                f"{name} does not have the current metadata. Citus goes on to send them while it answers.",
                f"SELECT citus_activate_node('{node.address.host}', {node.address.port});",
            )


def _version_drift(observed: Observed) -> Iterator[Drift]:
    own = next(
        (observed.reports[node.node_id] for node in observed.registry.nodes if _is_own(node, observed)),
        None,
    )
    for node, report in _reported(observed):
        name = str(node.address)
        installed, available = report.extension.installed, report.extension.available
        if report.extension.is_behind:
            yield Drift(
                f"extension {name}",
                DriftSeverity.WARNING,
                name,
                f"The extension citus of {name} is at {installed}, and its image has {available}.",
                "citus-cluster up --upgrade-citus",
            )
        elif report.extension.is_ahead:
            yield Drift(
                f"extension {name}",
                DriftSeverity.ERROR,
                name,
                f"The image of {name} has the extension citus {available}, which is older than its data ({installed}).",
                "Use an image of the version of the data (images.citus in cluster.yaml).",
            )
        if own is None or report is own:
            continue
        if report.citus_version != own.citus_version:
            yield Drift(
                f"citus {name}",
                DriftSeverity.ERROR,
                name,
                f"{name} runs Citus {report.citus_version}, the coordinator Citus {own.citus_version}.",
                "citus-cluster up, with one image for all nodes",
            )
        if report.postgres_version != own.postgres_version:
            same_major = report.postgres_version.split(".")[0] == own.postgres_version.split(".")[0]
            yield Drift(
                f"postgres {name}",
                DriftSeverity.WARNING if same_major else DriftSeverity.ERROR,
                name,
                f"{name} runs PostgreSQL {report.postgres_version}, the coordinator PostgreSQL {own.postgres_version}.",
                "citus-cluster up, with one image for all nodes",
            )


def _settings_drift(observed: Observed) -> Iterator[Drift]:
    for node, report in _reported(observed):
        name = str(node.address)
        for number, unused in enumerate(report.unused):
            waits = unused.needs_restart
            what = "waits for a restart" if waits else "is refused"
            yield Drift(
                f"setting {name} {unused.name or number}",
                DriftSeverity.WARNING if waits else DriftSeverity.ERROR,
                name,
                f"A setting of {name} {what}: {unused}",
                node.address.compose_command("restart")
                if waits
                else "Correct it under settings in cluster.yaml, then: citus-cluster up",
            )


def _is_own(node: RegisteredNode, observed: Observed) -> bool:
    return node.is_coordinator and node.role == "primary" and node.node_id in observed.reports


def _reported(observed: Observed) -> Iterator[tuple[RegisteredNode, ServerReport]]:
    for node in observed.registry.nodes:
        if report := observed.reports.get(node.node_id):
            yield node, report
