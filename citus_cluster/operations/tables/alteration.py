"""Changing the shards of a distributed table, and making it an ordinary table again: Citus copies all rows."""

from collections.abc import Sequence
from dataclasses import replace
from shlex import quote
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import UsageError
from citus_cluster.model.citus.table_facts import Column, ServerFacts, TableFacts
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan import table_checks as checks
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.model.units import count, size
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.tables.checks import Looked, Teller, look, refusing_untrusted, untrusted
from citus_cluster.operations.tables.distribution import (
    ChangedTable,
    TrustFunctions,
    changed_table,
    colocatable,
    find_column,
    find_partner,
    missing_values,
)
from citus_cluster.operations.tables.names import MAX_NAME, TableName
from citus_cluster.runtime.citus import relations as citus_relations
from citus_cluster.runtime.citus import table_changes as citus_changes
from citus_cluster.runtime.citus import table_facts as citus_facts
from citus_cluster.runtime.postgres import Connection, bare_name, translated


@parameters
class Undistribution:
    """A table that becomes an ordinary table of the coordinator."""

    table: TableName
    cascade: Annotated[bool, Field(description="Also undistribute all tables that foreign keys connect with it.")] = (
        False
    )
    trust_functions: TrustFunctions = False


@parameters
class Alteration:
    """New properties of a distributed table."""

    table: TableName
    column: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_NAME, description="New distribution column.", examples=["customer_id"]),
    ] = None
    shard_count: Annotated[
        int | None,
        Field(
            ge=1, le=checks.MAX_SHARD_COUNT, description="Number of shards; by default as many as now.", examples=[32]
        ),
    ] = None
    colocate_with: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_NAME,
            description="Table whose shards are on the same nodes; none, or default.",
            examples=["customers"],
        ),
    ] = None
    cascade_to_colocated: Annotated[bool, Field(description="Change all colocated tables alike.")] = False
    alone: Annotated[bool, Field(description="Change only this table, which leaves those colocated with it.")] = False
    trust_functions: TrustFunctions = False


async def affected(conn: Connection, looked: Looked, oids: Sequence[int]) -> tuple[TableFacts, ...]:
    """Return the facts about more tables that a change copies."""
    return tuple([await citus_facts.read_table(conn, oid, sizes=looked.sizes) for oid in oids])


def room(tables: Sequence[TableFacts], server: ServerFacts) -> list[Finding]:
    """Warn of how much room the second copy of all rows takes meanwhile."""
    sizes = [table.bytes for table in tables]
    total = None if None in sizes else sum(one for one in sizes if one is not None)
    if total == 0:
        return []
    return [warns(f"Old and new rows exist at the same time: {size(total)} more on the disks of the nodes meanwhile.")]


async def _plan_undistribution(cluster: Cluster, wanted: Undistribution) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the table"):
            looked = await look(conn, wanted.table)
            table = looked.table
            name = bare_name(table.name)
            if table.kind is TableKind.LOCAL:
                return Preview((), (), {"table": name})
            more = await citus_facts.connected_tables(conn, table.oid) if wanted.cascade else ()
            tables = (table, *[one for one in await affected(conn, looked, more) if one.kind is not TableKind.LOCAL])
            findings: list[Finding] = []
            for one in tables:
                command = f"citus-cluster tables undistribute {quote(name)} --cascade"
                findings += checks.undistributable(one, cascade=wanted.cascade, command=command)
                findings += checks.recreated(one, alters=False)
                findings += checks.waits(one, "Reads and writes")
            findings += room(tables, looked.server)
            findings += checks.served(looked.server, places=False)
            findings += await untrusted(conn, [one.oid for one in tables], trusted=wanted.trust_functions)
            steps = tuple(f"Copy the rows of {bare_name(one.name)} to the coordinator." for one in tables)
            return Preview(steps, tuple(findings), {"tables": [bare_name(one.name) for one in tables]})

    return await cluster.on_coordinator(work)


async def _undistribute(cluster: Cluster, wanted: Undistribution, preview: Preview, emit: Emit) -> ChangedTable:
    async def work(conn: Connection) -> ChangedTable:
        async with translated("copying the table to the coordinator"):
            found = await citus_relations.find_table(conn, wanted.table)
            tell = Teller(f"undistribute:{bare_name(found.name)}", emit)
            if preview.steps and found.kind is not TableKind.LOCAL:
                tell.started(f"copying {bare_name(found.name)} to the coordinator")

                async def copied() -> Sequence[int]:
                    return (found.oid, *(await citus_facts.connected_tables(conn, found.oid) if wanted.cascade else ()))

                guard = refusing_untrusted(conn, copied, trusted=wanted.trust_functions)
                await citus_changes.undistribute(conn, found.oid, cascade=wanted.cascade, guard=guard, tell=tell)
            result = await changed_table(conn, found.name, changed=bool(preview.steps))
            tell.done(f"{result.table} is a {result.kind} table")
            return result

    return await cluster.on_coordinator(work)


async def _plan_alteration(cluster: Cluster, wanted: Alteration) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the table"):
            return await _check_alteration(conn, wanted)

    return await cluster.on_coordinator(work)


def _refuse_combinations(wanted: Alteration, partner: TableFacts | None) -> None:
    if wanted.column is None and wanted.shard_count is None and wanted.colocate_with is None:
        raise UsageError("Nothing to change was given.", hint="Give column, shard_count or colocate_with.")
    if wanted.cascade_to_colocated and (
        wanted.alone or wanted.column or (wanted.colocate_with or "").lower() == "none"
    ):
        raise UsageError(
            "cascade_to_colocated cannot be combined with column, with alone, or with colocate_with none.",
            hint="Change the column of one table at a time.",
        )
    if wanted.shard_count and partner and wanted.shard_count != partner.shard_count:
        raise UsageError(
            f"{bare_name(partner.name)} has {count(partner.shard_count, 'shard')}; tables are colocated only with "
            "the same number.",
            hint="Omit shard_count.",
        )


async def _check_alteration(conn: Connection, wanted: Alteration) -> Preview:
    looked = await look(conn, wanted.table)
    table = looked.table
    name = bare_name(table.name)
    _, partner = await find_partner(conn, wanted.colocate_with)
    _refuse_combinations(wanted, partner)
    if table.kind is not TableKind.DISTRIBUTED:
        return Preview((f"Change the shards of {name}.",), (_other_kind(table),))
    column = await find_column(conn, table, wanted.column) if wanted.column else None
    if _is_so(table, column, wanted, partner):
        return Preview((), (), {"table": name})
    changes_count = wanted.shard_count not in {None, table.shard_count}
    findings: list[Finding] = []
    if table.colocated and changes_count and not (wanted.cascade_to_colocated or wanted.alone):
        others = ", ".join(map(bare_name, table.colocated))
        findings.append(
            blocks(
                f"{name} is colocated with {others}. Choose --cascade-to-colocated, which changes them too, or "
                "--alone, after which joins with them cross nodes.",
                f"citus-cluster tables alter {quote(name)} --shard-count {wanted.shard_count} --cascade-to-colocated",
            )
        )
    more = (
        [oid for oid in await citus_facts.colocated_tables(conn, table.colocation_id) if oid != table.oid]
        if wanted.cascade_to_colocated
        else []
    )
    tables = (table, *await affected(conn, looked, more))
    kept = column or (table.column(table.distribution_column) if table.distribution_column else None)
    if partner and kept:
        findings += colocatable(table, kept, partner)
    if column:
        findings += await _fits(conn, table, column, looked.server)
    for one in tables:
        findings += checks.recreated(one, alters=True)
        findings += checks.triggered(one, looked.server)
        if not wanted.cascade_to_colocated:
            findings += checks.alone(one)
        findings += checks.waits(one, "Reads and writes")
    findings += room(tables, looked.server)
    findings += checks.served(looked.server, shard_count=wanted.shard_count)
    findings += await untrusted(conn, [one.oid for one in tables], trusted=wanted.trust_functions)
    return Preview(
        _steps(tables, column, wanted, partner), tuple(findings), {"tables": [bare_name(t.name) for t in tables]}
    )


def _other_kind(table: TableFacts) -> Finding:
    name = bare_name(table.name)
    if table.kind is TableKind.SCHEMA:
        return blocks(
            f"{name} belongs to a distributed schema; all its rows are in one shard.",
            f"SELECT citus_schema_undistribute({checks.literal(table.schema)});",
        )
    fix = None if table.kind is TableKind.REFERENCE else f"citus-cluster tables distribute {quote(name)} COLUMN"
    return blocks(f"{name} is not distributed by a column: it is a {table.kind} table.", fix)


def _is_so(table: TableFacts, column: Column | None, wanted: Alteration, partner: TableFacts | None) -> bool:
    return (
        (column is None or column.name == table.distribution_column)
        and wanted.shard_count in {None, table.shard_count}
        and (
            wanted.colocate_with is None
            or (partner is not None and partner.colocation_id == table.colocation_id)
            or (partner is None and wanted.colocate_with.lower() == "none" and not table.colocated)
        )
    )


async def _fits(conn: Connection, table: TableFacts, column: Column, server: ServerFacts) -> list[Finding]:
    # Citus drops the foreign keys with other distributed tables.
    keys = tuple(key for key in table.foreign_keys if key.to_kind is TableKind.REFERENCE)
    kept = replace(table, foreign_keys=keys)
    return [
        *checks.hashable(table, column),
        *checks.keys_of_distributed(kept, column, None, together=None),
        *checks.unique(table, column, server),
        *await missing_values(conn, table, column),
    ]


def _steps(
    tables: Sequence[TableFacts], column: Column | None, wanted: Alteration, partner: TableFacts | None
) -> tuple[str, ...]:
    what = []
    if column:
        what.append(f"by {column.quoted}")
    if wanted.shard_count:
        what.append(f"in {count(wanted.shard_count, 'shard')}")
    if partner:
        what.append(f"beside {bare_name(partner.name)}")
    elif wanted.colocate_with:
        what.append(f"colocated with {wanted.colocate_with.lower()}")
    return tuple(f"Copy the rows of {bare_name(one.name)} to new shards, {', '.join(what)}." for one in tables)


async def _alter(cluster: Cluster, wanted: Alteration, preview: Preview, emit: Emit) -> ChangedTable:
    async def work(conn: Connection) -> ChangedTable:
        async with translated("changing the shards of the table"):
            found = await citus_relations.find_table(conn, wanted.table)
            table = await citus_facts.read_table(conn, found.oid)
            tell = Teller(f"alter:{bare_name(found.name)}", emit)
            if preview.steps:
                column = (await find_column(conn, table, wanted.column)).name if wanted.column else None
                colocate_with, _ = await find_partner(conn, wanted.colocate_with)
                tell.started(f"copying {bare_name(found.name)} to new shards")

                async def copied() -> Sequence[int]:
                    if not wanted.cascade_to_colocated:
                        return (table.oid,)
                    return await citus_facts.colocated_tables(conn, table.colocation_id)

                await citus_changes.alter(
                    conn,
                    found.oid,
                    column=column,
                    shard_count=wanted.shard_count,
                    colocate_with=colocate_with if wanted.colocate_with else None,
                    cascade=True if wanted.cascade_to_colocated else False if wanted.alone else None,
                    guard=refusing_untrusted(conn, copied, trusted=wanted.trust_functions),
                    tell=tell,
                )
            result = await changed_table(conn, found.name, changed=bool(preview.steps))
            tell.done(f"{result.table} has {count(result.shards, 'shard')} by {result.distribution_column}")
            return result

    return await cluster.on_coordinator(work)


UNDISTRIBUTE = Change(
    name="tables-undistribute",
    summary="Make a distributed or reference table an ordinary table of the coordinator.",
    path="tables/undistribute",
    command="tables undistribute",
    parameters=Undistribution,
    plan=_plan_undistribution,
    run=_undistribute,
    scope=lambda wanted: f"table {wanted.table}",
    lasts=True,
    asks=True,
)
ALTER = Change(
    name="tables-alter",
    summary="Change the distribution column, the number of shards, or the colocation of a distributed table.",
    path="tables/alter",
    command="tables alter",
    parameters=Alteration,
    plan=_plan_alteration,
    run=_alter,
    scope=lambda wanted: f"table {wanted.table}",
    lasts=True,
    asks=True,
)
