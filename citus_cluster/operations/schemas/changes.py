"""Distributing a schema, undoing that, and moving it to another node."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import NotFoundError
from citus_cluster.model.citus.rebalance_plan import TransferMode
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan import table_checks as checks
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Finding, Preview, blocks
from citus_cluster.model.units import count, size
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes.lookup import NodeName, find_node
from citus_cluster.operations.shards.moving import Group, Mode, Mover, find_group, plan_move
from citus_cluster.operations.tables.alteration import room
from citus_cluster.operations.tables.checks import Teller, refusing_untrusted, untrusted
from citus_cluster.operations.tables.distribution import FORGET, TrustFunctions, forget_copy
from citus_cluster.operations.tables.names import SchemaName
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import relations as citus_relations
from citus_cluster.runtime.citus import shards as citus_shards
from citus_cluster.runtime.citus import table_changes as citus_changes
from citus_cluster.runtime.citus import table_facts as citus_facts
from citus_cluster.runtime.postgres import Connection, bare_name, translated

_NEVER = {"public", "information_schema"}


@parameters
class OneSchema:
    """A schema."""

    schema: SchemaName
    trust_functions: TrustFunctions = False


@parameters
class SchemaMove:
    """A distributed schema, and the node to which it moves."""

    schema: SchemaName
    node: NodeName
    mode: Mode = TransferMode.AUTO
    trust_functions: Annotated[
        bool, Field(description="Copy rows although code of ordinary roles then runs as the superuser.")
    ] = False


@dataclass(frozen=True)
class ChangedSchema(Documented):
    """The schema after the change; ``changed`` is False if there was nothing to do."""

    schema: str
    distributed: bool
    tables: int
    changed: bool


async def _plan(cluster: Cluster, wanted: OneSchema, *, distributes: bool) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the schema"):
            return await _check(conn, wanted, distributes=distributes)

    return await cluster.on_coordinator(work)


async def _check(conn: Connection, wanted: OneSchema, *, distributes: bool) -> Preview:
    oid, name = await citus_relations.find_schema(conn, wanted.schema)
    oids = await citus_facts.schema_tables(conn, oid)
    details = {"schema": name, "tables": len(oids)}
    if distributes and (name in _NEVER or name.startswith("pg_")):
        never = blocks(f"The schema {name} cannot be distributed. Create a schema for each tenant.")
        return Preview((), (never,), details)
    if await citus_facts.is_distributed_schema(conn, oid) is distributes:
        return Preview(await _copies(conn, oids) if distributes else (), (), details)
    registry = await citus_nodes.read_registry(conn)
    silent = await citus_probe.silence(conn, registry.nodes)
    server = await citus_facts.read_server(conn, registry, silent)
    sizes = await citus_shards.sizes_by_group(conn, registry.nodes, known=silent)
    tables = [await citus_facts.read_table(conn, one, sizes=sizes) for one in oids]
    findings: list[Finding] = []
    if distributes:
        findings += _without_extensions(name, await citus_facts.extensions_in(conn, oid))
    for table in tables:
        if distributes:
            findings += checks.storable(table)
            findings += checks.triggered(table, server)
            findings += checks.of_schema(table, name)
        else:
            findings += checks.recreated(table, alters=False)
        findings += checks.waits(table, "Reads and writes")
    findings += room(tables, server)
    findings += checks.served(server, places=distributes)
    findings += await untrusted(conn, oids, trusted=wanted.trust_functions)
    where = "to one node" if distributes else "to the coordinator"
    return Preview((f"Copy {count(len(oids), 'table')} of {name} {where}.",), tuple(findings), details)


async def _copies(conn: Connection, oids: Sequence[int]) -> tuple[str, ...]:
    """Return the steps that remove what an interrupted run left on the coordinator."""
    tables = [await citus_facts.read_table(conn, one) for one in oids]
    return tuple(FORGET.format(bare_name(one.name), size(one.leftover_bytes)) for one in tables if one.leftover_bytes)


def _without_extensions(name: str, extensions: tuple[str, ...]) -> list[Finding]:
    return [
        blocks(f"The extension {one} is in the schema {name}.", f"ALTER EXTENSION {one} SET SCHEMA public;")
        for one in extensions
    ]


async def _run(
    cluster: Cluster, wanted: OneSchema, preview: Preview, emit: Emit, *, distributes: bool
) -> ChangedSchema:
    async def work(conn: Connection) -> ChangedSchema:
        doing = "distributing the schema" if distributes else "copying the schema to the coordinator"
        async with translated(doing):
            oid, name = await citus_relations.find_schema(conn, wanted.schema)
            tell = Teller(f"schema:{name}", emit)
            if preview.steps and await citus_facts.is_distributed_schema(conn, oid) is not distributes:
                tell.started(f"{doing} {name}")
                act = citus_changes.distribute_schema if distributes else citus_changes.undistribute_schema
                guard = refusing_untrusted(
                    conn, lambda: citus_facts.schema_tables(conn, oid), trusted=wanted.trust_functions
                )
                await act(conn, oid, guard=guard, tell=tell)
            if distributes:
                for one in await citus_facts.schema_tables(conn, oid):
                    await forget_copy(conn, (await citus_facts.read_table(conn, one)).name, tell)
            now = await citus_facts.is_distributed_schema(conn, oid)
            tell.done(f"{name} is {'distributed' if now else 'an ordinary schema'}")
            return ChangedSchema(name, now, len(await citus_facts.schema_tables(conn, oid)), bool(preview.steps))

    return await cluster.on_coordinator(work)


async def _plan_distribution(cluster: Cluster, wanted: OneSchema) -> Preview:
    return await _plan(cluster, wanted, distributes=True)


async def _distribute(cluster: Cluster, wanted: OneSchema, preview: Preview, emit: Emit) -> ChangedSchema:
    return await _run(cluster, wanted, preview, emit, distributes=True)


async def _plan_undistribution(cluster: Cluster, wanted: OneSchema) -> Preview:
    return await _plan(cluster, wanted, distributes=False)


async def _undistribute(cluster: Cluster, wanted: OneSchema, preview: Preview, emit: Emit) -> ChangedSchema:
    return await _run(cluster, wanted, preview, emit, distributes=False)


async def _find(conn: Connection, cluster: Cluster, wanted: SchemaMove) -> tuple[Group | None, RegisteredNode]:
    oid, _ = await citus_relations.find_schema(conn, wanted.schema)
    target = await find_node(conn, cluster, wanted.node)
    if not await citus_facts.is_distributed_schema(conn, oid):
        return None, target
    for table in await citus_facts.schema_tables(conn, oid):
        shard = await citus_facts.first_shard(conn, table)
        if shard is not None:
            registry = await citus_nodes.read_registry(conn)
            return await find_group(conn, registry.nodes, shard), target
    return None, target


async def _plan_move(cluster: Cluster, wanted: SchemaMove) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the schema"):
            group, target = await _find(conn, cluster, wanted)
            if group is None:
                oid, name = await citus_relations.find_schema(conn, wanted.schema)
                step = f"Move {name} to {target.address}."
                if await citus_facts.is_distributed_schema(conn, oid):
                    return Preview((step,), (blocks(f"{name} has no tables, so there is nothing to move."),))
                fix = f"SELECT citus_schema_distribute({checks.literal(name)});"
                return Preview((step,), (blocks(f"{name} is not a distributed schema.", fix),))
            return await plan_move(conn, group, target, mode=wanted.mode, trust_functions=wanted.trust_functions)

    return await cluster.on_coordinator(work)


async def _group(conn: Connection, cluster: Cluster, wanted: SchemaMove) -> tuple[Group, RegisteredNode]:
    group, target = await _find(conn, cluster, wanted)
    if group is None:
        raise NotFoundError(f"{bare_name(wanted.schema)} is no distributed schema with tables any more.")
    return group, target


_MOVER = Mover(_group)
DISTRIBUTE = Change(
    name="schemas-distribute",
    summary="Move all tables of a schema to one node, as one tenant.",
    path="schemas/distribute",
    command="schemas distribute",
    parameters=OneSchema,
    plan=_plan_distribution,
    run=_distribute,
    scope=lambda wanted: f"schema {wanted.schema}",
    lasts=True,
)
UNDISTRIBUTE = Change(
    name="schemas-undistribute",
    summary="Move all tables of a distributed schema back to the coordinator.",
    path="schemas/undistribute",
    command="schemas undistribute",
    parameters=OneSchema,
    plan=_plan_undistribution,
    run=_undistribute,
    scope=lambda wanted: f"schema {wanted.schema}",
    lasts=True,
    asks=True,
)
MOVE = Change(
    name="schemas-move",
    summary="Move a distributed schema to another node.",
    path="schemas/move",
    command="schemas move",
    parameters=SchemaMove,
    plan=_plan_move,
    run=_MOVER.run,
    scope=lambda wanted: "rebalance",
    lasts=True,
    continues="job_id",
    follow=_MOVER.follow,
    stop=_MOVER.stop,
)
