"""Statistics that PostgreSQL and Citus collect only when they are switched on: what each needs, and its rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.activity import masked
from citus_cluster.model.citus.nodes import NodeAddress


class Feature(StrEnum):
    """Statistics that can be switched on while the servers run."""

    STATEMENTS = "statements"
    TENANTS = "tenants"


class FeatureOffError(CitusClusterError):
    """These statistics are not collected."""

    code = "feature-off"
    http_status = 409

    def __init__(self, message: str, *, hint: str, feature: Feature, every_node: bool, needs_restart: bool) -> None:
        super().__init__(message, hint=hint)
        self.feature = feature
        self.every_node = every_node
        self.needs_restart = needs_restart


@dataclass(frozen=True)
class Need:
    """What a feature needs on a node: an extension, whose library is loaded at the start, and settings.

    ``settings`` maps each parameter to the values that are sufficient, the one to set first.
    """

    summary: str
    settings: Mapping[str, tuple[str, ...]]
    extension: str | None = None
    cost: str | None = None


NEEDS: Mapping[Feature, Need] = {
    Feature.STATEMENTS: Need(
        summary="Statements by time, calls and rows (pg_stat_statements, citus_stat_statements)",
        extension="pg_stat_statements",
        settings={
            "pg_stat_statements.track": ("top", "all"),
            "compute_query_id": ("auto", "on", "regress"),
            "citus.stat_statements_track": ("all",),
        },
        cost="Counting takes 3 to 6 % of the processor time of single-row statements.",
    ),
    Feature.TENANTS: Need(
        summary="Queries and processor time by tenant (citus_stat_tenants)",
        settings={"citus.stat_tenants_track": ("all",)},
    ),
}


@dataclass(frozen=True)
class NodeFeature:
    """What a node has of a feature; ``schema`` is that of the extension. ``settings`` that it lacks are None."""

    node: NodeAddress
    is_coordinator: bool
    libraries: tuple[str, ...]
    schema: str | None
    settings: Mapping[str, str | None] = field(default_factory=dict)

    def missing_library(self, need: Need) -> bool:
        return need.extension is not None and need.extension not in self.libraries

    def missing_settings(self, need: Need) -> Mapping[str, str]:
        """Return the parameters to change, with the values to set; not those that the server does not have."""
        return {
            name: enough[0]
            for name, enough in need.settings.items()
            if (value := self.settings.get(name)) is not None and value not in enough
        }

    def missing(self, need: Need) -> tuple[str, ...]:
        """Return what is missing, each in a few words."""
        found = []
        if self.missing_library(need):
            found.append(f"{need.extension} in shared_preload_libraries")
        if need.extension and self.schema is None:
            found.append(f"extension {need.extension}")
        found += [f"{name} = {value}" for name, value in self.missing_settings(need).items()]
        found += [f"{name} (this server does not have it)" for name in need.settings if self.settings.get(name) is None]
        return tuple(found)


def read_feature(node: NodeAddress, is_coordinator: bool, answer: Mapping[str, Any]) -> NodeFeature:
    """Read a node's answer (:mod:`citus_cluster.runtime.citus.statistics`)."""
    libraries = tuple(part.strip() for part in str(answer["libraries"]).split(","))
    return NodeFeature(node, is_coordinator, libraries, answer["schema"], answer["settings"])


def enabling_steps(need: Need, nodes: Sequence[NodeFeature]) -> tuple[str, ...]:
    """Return what would be done on each node, in sentences."""
    steps = []
    for one in nodes:
        if need.extension and one.schema is None:
            steps.append(f"Create the extension {need.extension} on {one.node}.")
        wanted = one.missing_settings(need)
        if wanted:
            values = ", ".join(f"{name} = {value}" for name, value in wanted.items())
            steps.append(f"Set {values} on {one.node} with ALTER SYSTEM, and reload its settings.")
    return tuple(steps)


def restart(need: Need, one: NodeFeature) -> str | None:
    """Return the setting in cluster.yaml that loads the library of an extension at the start, if that is missing."""
    if not one.missing_library(need):
        return None
    group = "coordinator" if one.is_coordinator else "worker"
    libraries = ",".join((*one.libraries, str(need.extension)))
    return (
        f"In cluster.yaml, set shared_preload_libraries: {libraries} in settings.{group}, then run "
        "setup_citus_cluster.py --yes --up"
    )


class FeatureState(StrEnum):
    """Whether statistics are collected."""

    ON = "on"
    PARTLY = "partly"
    OFF = "off"


@dataclass(frozen=True)
class FeatureRow:
    """One feature: whether it is on, what is missing on which node, and the command that switches it on.

    ``needs_restart``: a library must be loaded first, so ``remedy`` is the setting in cluster.yaml.
    """

    feature: Feature
    summary: str
    state: FeatureState
    missing: tuple[str, ...]
    needs_restart: bool
    remedy: str | None


def describe_feature(feature: Feature, nodes: Sequence[NodeFeature], silent: Mapping[NodeAddress, str]) -> FeatureRow:
    """Combine what the nodes have. Statements are counted where clients connect, so the coordinator is sufficient."""
    need = NEEDS[feature]
    asked = relevant(feature, nodes)
    missing = {one.node: one.missing(need) for one in asked}
    lacking = [f"{node}: {what}" for node, found in missing.items() for what in found]
    lacking += [f"{address}: {reason}" for address, reason in silent.items() if feature is not Feature.STATEMENTS]
    if not lacking:
        state = FeatureState.ON
    else:
        state = FeatureState.PARTLY if any(not found for found in missing.values()) else FeatureState.OFF
    restarts = tuple(found for one in asked if (found := restart(need, one)))
    remedy = None
    if any(missing.values()):
        remedy = restarts[0] if restarts else f"citus-cluster activity enable {feature.value}"
    return FeatureRow(feature, need.summary, state, tuple(lacking), bool(restarts), remedy)


def relevant(feature: Feature, nodes: Sequence[NodeFeature], *, every_node: bool = False) -> tuple[NodeFeature, ...]:
    """Return the nodes on which a feature is needed."""
    if feature is Feature.STATEMENTS and not every_node:
        return tuple(one for one in nodes if one.is_coordinator)
    return tuple(nodes)


def require(feature: Feature, one: NodeFeature) -> None:
    """Raise FeatureOffError, which names what is missing and how to switch it on, unless the node has the feature."""
    need = NEEDS[feature]
    missing = one.missing(need)
    if not missing:
        return
    every_node = feature is Feature.STATEMENTS and not one.is_coordinator
    first = restart(need, one)
    remedy = first or f"citus-cluster activity enable {feature.value}{' --every-node' if every_node else ''}"
    raise FeatureOffError(
        f"{one.node} does not collect these statistics. Missing: {', '.join(missing)}.",
        hint=f"Switch them on: {remedy}",
        feature=feature,
        every_node=every_node,
        needs_restart=first is not None,
    )


@dataclass(frozen=True)
class TopStatementRow:
    """What one kind of statement has cost since the statistics were reset, on one node.

    Times are in milliseconds. ``share`` is its part of the time of all statements, from 0 to 1. ``executor`` is that of
    Citus (adaptive, local …), and ``tenants`` the number of distribution values that Citus counted for it.
    """

    id: str
    node: str
    query_id: str
    role: str | None
    database: str | None
    calls: int
    total_ms: float
    mean_ms: float
    rows: int
    share: float
    executor: str | None
    tenants: int
    query: str


def read_statement(node: NodeAddress, row: Mapping[str, Any]) -> TopStatementRow:
    """Read one row of a node's answer."""
    return TopStatementRow(
        id=f"{node}/{row['query_id']}/{row['user_id']}/{row['database_id']}/{int(row['top_level'])}",
        node=str(node),
        query_id=str(row["query_id"]),
        role=row["role"],
        database=row["database"],
        calls=int(row["calls"]),
        total_ms=float(row["total_ms"]),
        mean_ms=float(row["mean_ms"]),
        rows=int(row["rows"]),
        share=float(row["share"] or 0),
        executor=row["executor"],
        tenants=int(row["tenants"] or 0),
        query=masked(row["query"] or ""),
    )


@dataclass(frozen=True)
class TenantRow:
    """What one tenant has asked of one node, in this period and in the last (``citus.stat_tenants_period``).

    ``cpu_seconds`` are of the node's processors. A node that does not answer, or does not count, has one row, with
    ``problem``.
    """

    id: str
    node: str
    colocation_id: int | None = None
    tenant: str | None = None
    tables: tuple[str, ...] = ()
    reads: int = 0
    reads_last_period: int = 0
    queries: int = 0
    queries_last_period: int = 0
    cpu_seconds: float = 0.0
    cpu_seconds_last_period: float = 0.0
    problem: str | None = None


def read_tenants(
    node: NodeAddress, rows: Iterable[Mapping[str, Any]], tables: Mapping[int, Sequence[str]]
) -> Iterable[TenantRow]:
    """Read a node's answer; ``tables`` are the names by colocation id."""
    for row in rows:
        colocation_id = int(row["colocation_id"])
        yield TenantRow(
            id=f"{node}/{colocation_id}/{row['tenant']}",
            node=str(node),
            colocation_id=colocation_id,
            tenant=row["tenant"],
            tables=tuple(tables.get(colocation_id, ())),
            reads=int(row["reads"]),
            reads_last_period=int(row["reads_last_period"]),
            queries=int(row["queries"]),
            queries_last_period=int(row["queries_last_period"]),
            cpu_seconds=float(row["cpu_seconds"]),
            cpu_seconds_last_period=float(row["cpu_seconds_last_period"]),
        )
