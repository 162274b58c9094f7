"""Distributing a table by a column, and copying it to every node as a reference table."""

from dataclasses import dataclass
from shlex import quote
from typing import Annotated

import psycopg
from pydantic import Field

from citus_cluster.errors import CitusClusterError, NotFoundError, UsageError
from citus_cluster.model.citus.table_facts import Column, TableFacts
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan import table_checks as checks
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.model.units import count, size
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.tables.checks import Looked, Teller, among, look, refusing_untrusted, untrusted
from citus_cluster.operations.tables.names import MAX_NAME, ColumnName, TableName
from citus_cluster.runtime.citus import relations as citus_relations
from citus_cluster.runtime.citus import table_changes as citus_changes
from citus_cluster.runtime.citus import table_facts as citus_facts
from citus_cluster.runtime.postgres import Connection, bare_name, describe, translated

TRUST = "Copy rows although code of ordinary roles then runs as the superuser."
ShardCount = Annotated[
    int | None,
    Field(
        ge=1, le=checks.MAX_SHARD_COUNT, description="Number of shards; by default citus.shard_count.", examples=[32]
    ),
]
TrustFunctions = Annotated[bool, Field(description=TRUST)]


@parameters
class Distribution:
    """How to distribute a table."""

    table: TableName
    column: ColumnName
    shard_count: ShardCount = None
    colocate_with: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_NAME,
            description="Table whose shards are on the same nodes, or none. By default any table of the same column "
            "type and number of shards.",
            examples=["customers"],
        ),
    ] = None
    concurrently: Annotated[bool, Field(description="Do not hold writes while rows are copied; takes longer.")] = False
    trust_functions: TrustFunctions = False


@parameters
class OneTable:
    """A table to copy to every node."""

    table: TableName
    trust_functions: TrustFunctions = False


@dataclass(frozen=True)
class ChangedTable(Documented):
    """The table after the change; ``changed`` is False if there was nothing to do."""

    table: str
    kind: TableKind
    distribution_column: str | None
    shards: int
    colocation_id: int | None
    changed: bool


async def changed_table(conn: Connection, name: str, *, changed: bool) -> ChangedTable:
    """Return a table as it is now, by its quoted name."""
    found = await citus_relations.find_table(conn, name)
    now = await citus_facts.read_table(conn, found.oid)
    return ChangedTable(
        bare_name(now.name),
        now.kind,
        now.distribution_column,
        now.shard_count,
        now.colocation_id or None,
        changed,
    )


async def find_column(conn: Connection, table: TableFacts, text: str) -> Column:
    """Find a column as SQL names it, or by its exact name. Raises NotFoundError."""
    column = table.column(await citus_changes.parse_column(conn, text)) or table.column(text)
    if column is None:
        names = ", ".join(one.quoted for one in table.columns)
        raise NotFoundError(f"{bare_name(table.name)} has no such column.", hint=f"Its columns are {names}.")
    return column


async def find_partner(conn: Connection, text: str | None) -> tuple[str, TableFacts | None]:
    """Return the value of Citus' ``colocate_with``, and the table that it names."""
    if text is None or text.lower() in {"default", "none"}:
        return (text or "default").lower(), None
    try:
        found = await citus_relations.find_table(conn, text)
    except NotFoundError as error:
        raise NotFoundError("The table to colocate with does not exist.", hint=error.hint) from error
    return found.name, await citus_facts.read_table(conn, found.oid)


def colocatable(table: TableFacts, column: Column, partner: TableFacts) -> list[Finding]:
    """Return why a table cannot have its shards beside those of another one."""
    if partner.kind is not TableKind.DISTRIBUTED:
        return [
            blocks(
                f"{partner.name} is not distributed by a column ({partner.kind}), so no table can be colocated with it."
            )
        ]
    if partner.distribution_type != column.type:
        return [
            blocks(
                f"The type of {column.quoted} is {column.type}, but {partner.name} is distributed by "
                f"{partner.distribution_type}.",
                f"ALTER TABLE {table.name} ALTER COLUMN {column.quoted} TYPE {partner.distribution_type};",
            )
        ]
    return []


async def _plan_distribution(cluster: Cluster, wanted: Distribution) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the table"):
            return await _check_distribution(conn, wanted)

    return await cluster.on_coordinator(work)


async def _check_distribution(conn: Connection, wanted: Distribution) -> Preview:
    looked = await look(conn, wanted.table)
    table, server = looked.table, looked.server
    column = await find_column(conn, table, wanted.column)
    colocate_with, partner = await find_partner(conn, wanted.colocate_with)
    if partner and wanted.shard_count:
        raise UsageError(
            "shard_count and colocate_with cannot be combined: the table gets as many shards as the other one has.",
            hint="Use one of the two.",
        )
    if table.kind not in {TableKind.LOCAL, TableKind.CITUS_LOCAL}:
        return _already(table, column, wanted, partner)
    colocation, shard_count = await citus_changes.default_colocation(conn, table.oid, column.name, wanted.shard_count)
    if partner:
        colocation, shard_count = partner.colocation_id, partner.shard_count
    elif colocate_with == "none":
        colocation = None
    findings = [*checks.storable(table)]
    if table.partition_of:
        findings.append(
            blocks(
                f"{table.name} is a partition; Citus distributes the whole partitioned table.",
                f"SELECT create_distributed_table({checks.literal(table.partition_of)}, "
                f"{checks.literal(column.name)});",
            )
        )
    if table.kind is TableKind.CITUS_LOCAL and not wanted.concurrently:
        # Citus makes it a local table again first.
        findings += checks.recreated(table, alters=False)
    findings += checks.triggered(table, server)
    findings += checks.hashable(table, column)
    findings += colocatable(table, column, partner) if partner else []
    # Foreign keys first: a unique key cannot be dropped while one points to it.
    findings += checks.keys_of_distributed(
        table,
        column,
        colocation,
        together=None
        if partner
        else f"citus-cluster tables distribute {quote(bare_name(table.name))} {quote(column.quoted)} --colocate-with",
        concurrently=wanted.concurrently,
    )
    findings += checks.unique(table, column, server)
    findings += await missing_values(conn, table, column)
    findings += checks.served(server, shard_count=shard_count)
    findings += checks.roomy(server, table.bytes, nodes=min(shard_count, len(server.holders)))
    if wanted.concurrently:
        findings += _online(looked)
    else:
        findings += checks.waits(table, "Writes")
    findings += checks.sequences(table)
    findings += await untrusted(conn, [table.oid], trusted=wanted.trust_functions)
    return Preview(_steps(table, column, wanted, shard_count, partner), tuple(findings), _details(table, shard_count))


def _online(looked: Looked) -> list[Finding]:
    table = looked.table
    findings = [*checks.decodes(looked.server), *checks.identified(table.without_identity)]
    if table.persistence == "u":
        findings.append(
            blocks(
                f"{table.name} is unlogged, so its changes cannot be replicated.",
                f"ALTER TABLE {table.name} SET LOGGED;",
            )
        )
    findings.append(
        warns(
            f"If the change is interrupted, {table.name} stays a Citus-local table: all rows are on the coordinator, "
            "and everything works. Run the change again to continue."
        )
    )
    return findings


async def missing_values(conn: Connection, table: TableFacts, column: Column) -> list[Finding]:
    """Return whether rows without a value of the column prevent that they are divided by it."""
    if column.not_null or column.generated or table.relkind == "f":
        return []
    try:
        found = await citus_facts.has_nulls(conn, table.name, column.name)
    except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
        return [warns(f"The check for rows without a value of {column.quoted} took too long. Such rows stop the copy.")]
    if not found:
        return []
    return [
        blocks(
            f"{table.name} has rows without a value of {column.quoted}, which belong to no shard.",
            f"DELETE FROM {table.name} WHERE {column.quoted} IS NULL;",  # noqa: S608 # shown to people
        )
    ]


def _already(table: TableFacts, column: Column, wanted: Distribution, partner: TableFacts | None) -> Preview:
    name = bare_name(table.name)
    same = (
        table.kind is TableKind.DISTRIBUTED
        and table.distribution_column == column.name
        and wanted.shard_count in {None, table.shard_count}
        and (partner is None or partner.colocation_id == table.colocation_id)
    )
    if same:
        steps = (FORGET.format(name, size(table.leftover_bytes)),) if table.leftover_bytes else ()
        return Preview(steps, (), _details(table, table.shard_count))
    fixes = {
        TableKind.DISTRIBUTED: f"citus-cluster tables alter {quote(name)} --column {quote(column.quoted)}",
        TableKind.SCHEMA: f"citus-cluster schemas undistribute {quote(table.schema)}",
    }
    what = (
        f"is already distributed by {table.distribution_column}"
        if table.distribution_column
        else f"is a {table.kind} table"
    )
    finding = blocks(
        f"{name} {what}.", fixes.get(table.kind, f"SELECT undistribute_table({checks.literal(table.name)});")
    )
    return Preview(("Distribute it again.",), (finding,), _details(table, table.shard_count))


FORGET = "Remove the rows of {} that the coordinator still keeps ({}); they are in the shards."


def _steps(
    table: TableFacts, column: Column, wanted: Distribution, shard_count: int, partner: TableFacts | None
) -> tuple[str, ...]:
    name = bare_name(table.name)
    beside = f", beside those of {bare_name(partner.name)}" if partner else ""
    writes = "while writes go on" if wanted.concurrently else "while writes to it wait"
    parts = f" and its {count(len(table.partitions), 'partition')}" if table.partitions else ""
    steps = [f"Copy the rows of {name}{parts} to {count(shard_count, 'shard')} by {column.quoted}{beside}, {writes}."]
    if table.bytes:
        steps.append(FORGET.format(name, size(table.bytes)))
    return tuple(steps)


def _details(table: TableFacts, shard_count: int) -> dict[str, object]:
    return {"table": bare_name(table.name), "bytes": table.bytes, "shard_count": shard_count}


async def _distribute(cluster: Cluster, wanted: Distribution, preview: Preview, emit: Emit) -> ChangedTable:
    async def work(conn: Connection) -> ChangedTable:
        async with translated("distributing the table"):
            found = await citus_relations.find_table(conn, wanted.table)
            table = await citus_facts.read_table(conn, found.oid)
            tell = Teller(f"distribute:{bare_name(found.name)}", emit)
            if preview.steps and table.kind in {TableKind.LOCAL, TableKind.CITUS_LOCAL}:
                column = await find_column(conn, table, wanted.column)
                colocate_with, _ = await find_partner(conn, wanted.colocate_with)
                act = citus_changes.distribute_concurrently if wanted.concurrently else citus_changes.distribute
                tell.started(f"distributing {bare_name(found.name)} by {column.quoted}")
                await act(
                    conn,
                    found.oid,
                    column.name,
                    colocate_with=colocate_with,
                    shard_count=wanted.shard_count,
                    guard=refusing_untrusted(conn, among(found.oid), trusted=wanted.trust_functions),
                    tell=tell,
                )
            await forget_copy(conn, found.name, tell)
            result = await changed_table(conn, found.name, changed=bool(preview.steps))
            tell.done(f"{result.table} is distributed by {result.distribution_column}")
            return result

    return await cluster.on_coordinator(work)


async def forget_copy(conn: Connection, name: str, tell: Teller) -> None:
    """Remove what the coordinator still keeps of a table's rows. They only take room, so a refusal fails nothing."""
    found = await citus_relations.find_table(conn, name)
    table = await citus_facts.read_table(conn, found.oid)
    if table.kind in {TableKind.LOCAL, TableKind.CITUS_LOCAL} or not table.leftover_bytes:
        return
    try:
        await citus_changes.forget_local_rows(conn, found.oid)
    except (psycopg.Error, CitusClusterError) as error:
        if conn.closed:
            raise
        reason = describe(error) if isinstance(error, psycopg.Error) else str(error)
        tell.warn(
            f"the coordinator keeps its copy of {bare_name(name)} ({size(table.leftover_bytes)}), which only takes "
            f"room: {reason}. Run the command again to remove it"
        )


async def _plan_reference(cluster: Cluster, wanted: OneTable) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the table"):
            return await _check_reference(conn, wanted)

    return await cluster.on_coordinator(work)


async def _check_reference(conn: Connection, wanted: OneTable) -> Preview:
    looked = await look(conn, wanted.table)
    table, server = looked.table, looked.server
    name = bare_name(table.name)
    details = {"table": name, "bytes": table.bytes}
    if table.kind is TableKind.REFERENCE:
        steps = (FORGET.format(name, size(table.leftover_bytes)),) if table.leftover_bytes else ()
        return Preview(steps, (), details)
    findings: list[Finding] = []
    if table.kind not in {TableKind.LOCAL, TableKind.CITUS_LOCAL}:
        fix = (
            f"citus-cluster schemas undistribute {quote(table.schema)}"
            if table.kind is TableKind.SCHEMA
            else f"SELECT undistribute_table({checks.literal(table.name)});"
        )
        findings.append(blocks(f"{name} is already a {table.kind} table.", fix))
    findings += checks.storable(table)
    if table.relkind == "p":
        findings.append(blocks(f"{name} is partitioned, which a reference table cannot be."))
    if table.partition_of:
        findings.append(
            blocks(
                f"{name} is a partition, which a reference table cannot be.",
                f"ALTER TABLE {table.partition_of} DETACH PARTITION {table.name};",
            )
        )
    findings += checks.triggered(table, server)
    findings += checks.keys_of_reference(table)
    findings += checks.served(server, places=False)
    findings += checks.roomy(server, table.bytes, nodes=1)
    findings += checks.waits(table, "Writes")
    findings += checks.sequences(table)
    findings += await untrusted(conn, [table.oid], trusted=wanted.trust_functions)
    copied = [f"Copy {name} to every node, while writes to it wait."]
    if table.bytes:
        copied.append(FORGET.format(name, size(table.bytes)))
    return Preview(tuple(copied), tuple(findings), details)


async def _make_reference(cluster: Cluster, wanted: OneTable, preview: Preview, emit: Emit) -> ChangedTable:
    async def work(conn: Connection) -> ChangedTable:
        async with translated("copying the table to every node"):
            found = await citus_relations.find_table(conn, wanted.table)
            tell = Teller(f"reference:{bare_name(found.name)}", emit)
            if preview.steps and found.kind is not TableKind.REFERENCE:
                tell.started(f"copying {bare_name(found.name)} to every node")
                guard = refusing_untrusted(conn, among(found.oid), trusted=wanted.trust_functions)
                await citus_changes.make_reference(conn, found.oid, guard=guard, tell=tell)
            await forget_copy(conn, found.name, tell)
            result = await changed_table(conn, found.name, changed=bool(preview.steps))
            tell.done(f"{result.table} is a reference table")
            return result

    return await cluster.on_coordinator(work)


DISTRIBUTE = Change(
    name="tables-distribute",
    summary="Divide the rows of a table among the nodes by a column.",
    path="tables/distribute",
    command="tables distribute",
    parameters=Distribution,
    plan=_plan_distribution,
    run=_distribute,
    scope=lambda wanted: f"table {wanted.table}",
    lasts=True,
)
REFERENCE = Change(
    name="tables-reference",
    summary="Copy a table to every node, as a reference table.",
    path="tables/reference",
    command="tables reference",
    parameters=OneTable,
    plan=_plan_reference,
    run=_make_reference,
    scope=lambda wanted: f"table {wanted.table}",
    lasts=True,
)
