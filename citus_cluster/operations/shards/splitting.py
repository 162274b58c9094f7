"""Splitting a shard by hash values, and giving one tenant a shard of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import NotFoundError, UsageError
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, RebalancePlan, TransferMode
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.citus.shards import ShardListRow
from citus_cluster.model.citus.splitting import parse_points, point_problems
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan import table_checks as checks
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.model.units import count, size
from citus_cluster.operations.change import Change, command_line
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes.lookup import find_node
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.shards.moving import Group, Mode, ShardId, find_group, moves_of, welcomed
from citus_cluster.operations.shards.views import KeyValue
from citus_cluster.operations.tables.checks import Teller, refusing_untrusted, untrusted
from citus_cluster.operations.tables.distribution import TrustFunctions
from citus_cluster.operations.tables.names import TableName
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import relations as citus_relations
from citus_cluster.runtime.citus import shards as citus_shards
from citus_cluster.runtime.citus import table_changes as citus_changes
from citus_cluster.runtime.citus import table_facts as citus_facts
from citus_cluster.runtime.postgres import Connection, translated


@parameters
class Splitting:
    """A shard, and the values at which it is divided."""

    shard: ShardId
    points: Annotated[
        str,
        Field(
            min_length=1,
            max_length=10_000,
            description="Last hash value of each new shard but the last, separated by commas; or half.",
            examples=["half"],
        ),
    ]
    nodes: Annotated[
        tuple[str, ...],
        Field(max_length=1000, description="Node of each new shard, in their order; by default that of the old one."),
    ] = ()
    mode: Mode = TransferMode.AUTO
    trust_functions: TrustFunctions = False


@parameters
class Isolation:
    """A value of the distribution column whose rows get a shard of their own."""

    table: TableName
    value: KeyValue
    cascade: Annotated[bool, Field(description="Also for the tables that are colocated with it.")] = False
    mode: Mode = TransferMode.AUTO
    trust_functions: TrustFunctions = False


@dataclass(frozen=True)
class SplitShards(Documented):
    """The shards that hold the rows now."""

    table: str
    shards: tuple[int, ...]
    changed: bool


async def _check(
    conn: Connection, registry: Registry, group: Group, *, mode: TransferMode, trust_functions: bool
) -> list[Finding]:
    """Return what prevents that the shards of a group are split."""
    own = group.rows[0]
    if own.kind is not TableKind.DISTRIBUTED:
        return [blocks(f"{own.table} is a {own.kind} table; only shards of a hash-distributed table can be split.")]
    server = await citus_facts.read_server(conn, registry, group.silent)
    findings = [*checks.served(server)]
    if server.running_job is not None:
        fix = "citus-cluster rebalance wait"
        findings = [one for one in findings if one.fix != fix]
        findings.append(blocks(f"Rebalance {server.running_job} is running, and holds the shards.", fix))
    if mode is TransferMode.BLOCK_WRITES:
        findings.append(warns(f"Writes to these shards wait while they are split ({size(group.bytes)})."))
    else:
        findings += checks.decodes(server)
    meanwhile = f"Old and new shards exist at the same time: {size(group.bytes)} more on the disks meanwhile."
    findings.append(warns(meanwhile))
    if server.silent:
        return findings
    source = next((node.address for node in registry.nodes if str(node.address) == group.source), None)
    if source is not None:
        preview = RebalancePlan(moves_of(group, source), {}, mode)
        # Rows are copied by the caller, so the rule for moves, which the owners run, is not enough.
        options = RebalanceOptions(mode=mode, trust_functions=True)
        found = await rebalance.findings(conn, options, preview)
        findings += [one for one in found if "--trust-functions" not in one.message]
    oids = [(await citus_relations.find_table(conn, name)).oid for name in dict.fromkeys(r.table for r in group.rows)]
    return findings + await untrusted(conn, oids, trusted=trust_functions)


async def _plan_split(cluster: Cluster, wanted: Splitting) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the shard"):
            registry = await citus_nodes.read_registry(conn)
            group = await find_group(conn, registry.nodes, wanted.shard)
            own = group.rows[0]
            if own.kind is not TableKind.DISTRIBUTED:
                blocked = await _check(conn, registry, group, mode=wanted.mode, trust_functions=wanted.trust_functions)
                return Preview((f"Split shard {wanted.shard}.",), tuple(blocked))
            points = _points(wanted, own)
            nodes = await _nodes(conn, cluster, wanted, registry, group, len(points) + 1)
            findings = [blocks(one) for one in point_problems(points, own.min_value, own.max_value)]
            for node in dict.fromkeys(nodes):
                findings += welcomed(node)
            findings += await _check(conn, registry, group, mode=wanted.mode, trust_functions=wanted.trust_functions)
            places = ", ".join(str(node.address) for node in nodes)
            step = (
                f"Split {count(len(group.rows), 'shard')} of {', '.join(dict.fromkeys(r.table for r in group.rows))} "
                f"into {len(nodes)} each, after {', '.join(map(str, points))}, on {places}."
            )
            details = {
                "table": own.table,
                "min_value": own.min_value,
                "max_value": own.max_value,
                "points": list(points),
                "bytes": group.bytes,
            }
            return Preview((step,), tuple(findings), details)

    return await cluster.on_coordinator(work)


def _points(wanted: Splitting, own: ShardListRow) -> tuple[int, ...]:
    return parse_points(wanted.points, own.min_value, own.max_value)


async def _nodes(
    conn: Connection, cluster: Cluster, wanted: Splitting, registry: Registry, group: Group, needed: int
) -> tuple[RegisteredNode, ...]:
    if wanted.nodes:
        if len(wanted.nodes) != needed:
            raise UsageError(f"{count(needed, 'new shard')} need {count(needed, 'node')}, not {len(wanted.nodes)}.")
        return tuple([await find_node(conn, cluster, name) for name in wanted.nodes])
    home = next(node for node in registry.nodes if str(node.address) == group.source and node.role == "primary")
    return (home,) * needed


async def _split(cluster: Cluster, wanted: Splitting, preview: Preview, emit: Emit) -> SplitShards:
    async def work(conn: Connection) -> SplitShards:
        async with translated("splitting the shard"):
            registry = await citus_nodes.read_registry(conn)
            group = await find_group(conn, registry.nodes, wanted.shard)
            own = group.rows[0]
            points = _points(wanted, own)
            nodes = await _nodes(conn, cluster, wanted, registry, group, len(points) + 1)
            tell = Teller(f"split:{wanted.shard}", emit)
            tell.started(f"splitting shard {wanted.shard} of {own.table}")
            node_ids = [node.node_id for node in nodes]
            guard = _refusing(conn, own.colocation_id or 0, trusted=wanted.trust_functions)
            await citus_changes.split(
                conn, wanted.shard, points, node_ids, mode=wanted.mode.value, guard=guard, tell=tell
            )
            ranges = await _ranges(conn, own.table, int(own.min_value or 0), int(own.max_value or 0))
            return _has_split(wanted, own.table, ranges, tell)

    return await cluster.on_coordinator(work)


def _refusing(conn: Connection, colocation_id: int, *, trusted: bool) -> citus_changes.Guard:
    return refusing_untrusted(conn, lambda: citus_facts.colocated_tables(conn, colocation_id), trusted=trusted)


async def _ranges(conn: Connection, table: str, low: int, high: int) -> Mapping[int, tuple[int, int]]:
    found = await citus_relations.find_table(conn, table)
    return await citus_shards.ranges_between(conn, found.oid, low, high)


def _has_split(wanted: Splitting, table: str, ranges: Mapping[int, object], tell: Teller) -> SplitShards:
    tell.done(f"{table} has {count(len(ranges), 'shard')} in place of {wanted.shard}")
    return SplitShards(table, tuple(ranges), True)


async def _completed_split(
    cluster: Cluster, wanted: Splitting, planned: Mapping[str, object], emit: Emit
) -> SplitShards | None:
    """Return the new shards if Citus has committed the split: the old shard is gone then.

    Raises NotFoundError if the old shard is gone, and other shards have its range.
    """
    match planned:
        case {"table": str(table), "min_value": str(low), "max_value": str(high), "points": [*points]}:
            pass
        case _:
            return None

    async def work(conn: Connection) -> SplitShards | None:
        async with translated("looking for the new shards"):
            if await citus_shards.exists(conn, wanted.shard):
                return None
            ranges = await _ranges(conn, table, int(low), int(high))
            if {*points, int(high)} <= {last for _, last in ranges.values()}:
                return _has_split(wanted, table, ranges, Teller(f"split:{wanted.shard}", emit))
            now = ", ".join(f"{shard} ({first} to {last})" for shard, (first, last) in ranges.items()) or "no shard"
            raise NotFoundError(
                f"Shard {wanted.shard} of {table} is gone, but not by this split: its hash values {low} to {high} now "
                f"belong to {now}, and the split was to be after {', '.join(map(str, points))}.",
                hint="Split one of these shards, or leave it so.",
            )

    return await cluster.on_coordinator(work)


async def _isolated(conn: Connection, wanted: Isolation) -> tuple[int, int | None, bool]:
    """Return the table, the shard with the value, and whether this is its only value."""
    table = await citus_relations.find_table(conn, wanted.table)
    registry = await citus_nodes.read_registry(conn)
    found = await citus_shards.locate_key(conn, registry.nodes, table.oid, wanted.value)
    alone = found.min_value is not None and found.min_value == found.max_value
    return table.oid, found.shard_id, alone


async def _plan_isolation(cluster: Cluster, wanted: Isolation) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the value"):
            oid, shard, alone = await _isolated(conn, wanted)
            table = await citus_facts.read_table(conn, oid)
            name = wanted.table
            step = f"Move the rows of {name} with this value to a shard of their own."
            if shard is None or table.kind is not TableKind.DISTRIBUTED:
                reason = f"{name} is a {table.kind} table; only a hash-distributed table has tenants by value."
                return Preview((step,), (blocks(reason),))
            if alone:
                return Preview((), (), {"shard": shard})
            registry = await citus_nodes.read_registry(conn)
            group = await find_group(conn, registry.nodes, shard)
            findings = await _check(conn, registry, group, mode=wanted.mode, trust_functions=wanted.trust_functions)
            if table.colocated and not wanted.cascade:
                others = ", ".join(table.colocated)
                findings.insert(
                    0,
                    blocks(
                        f"{name} is colocated with {others}, whose rows of this value must stay beside them. --cascade "
                        "isolates them too.",
                        command_line(ISOLATE, replace(wanted, cascade=True)),
                    ),
                )
            return Preview((step,), tuple(findings), {"shard": shard, "bytes": group.bytes})

    return await cluster.on_coordinator(work)


async def _isolate(cluster: Cluster, wanted: Isolation, preview: Preview, emit: Emit) -> SplitShards:
    async def work(conn: Connection) -> SplitShards:
        async with translated("isolating the value"):
            oid, shard, alone = await _isolated(conn, wanted)
            tell = Teller(f"isolate:{wanted.table}", emit)
            if preview.steps and not alone:
                tell.started(f"isolating one value of {wanted.table}")
                table = await citus_facts.read_table(conn, oid)
                guard = _refusing(conn, table.colocation_id, trusted=wanted.trust_functions)
                await citus_changes.isolate(
                    conn, oid, wanted.value, cascade=wanted.cascade, mode=wanted.mode.value, guard=guard, tell=tell
                )
                _, shard, alone = await _isolated(conn, wanted)
            tell.done(f"shard {shard} of {wanted.table} has only this value")
            return SplitShards(wanted.table, () if shard is None else (shard,), bool(preview.steps))

    return await cluster.on_coordinator(work)


SPLIT = Change(
    name="shards-split",
    summary="Split a shard, with those that are always on the same node, by hash values.",
    path="shards/split",
    command="shards split",
    parameters=Splitting,
    plan=_plan_split,
    run=_split,
    scope=lambda wanted: "rebalance",
    lasts=True,
    asks=True,
    completed=_completed_split,
)
ISOLATE = Change(
    name="shards-isolate",
    summary="Give the rows with one value of the distribution column a shard of their own.",
    path="shards/isolate",
    command="shards isolate",
    parameters=Isolation,
    plan=_plan_isolation,
    run=_isolate,
    scope=lambda wanted: "rebalance",
    lasts=True,
    asks=True,
)
