"""The map of shards: nodes as columns, groups of shards as cells, coloured by size and parted by colocation."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from starlette.datastructures import QueryParams

from admin_api.dependencies import Parts, PartsOf
from admin_api.lists import read_query
from admin_api.pages import forms
from admin_api.pages.beside import FAILURES
from admin_api.pages.declared import views_of
from admin_api.pages.html import render
from admin_api.pages.routing import router
from citus_cluster.errors import CitusClusterError, NotFoundError
from citus_cluster.model.documents import as_data
from citus_cluster.model.parameters import NoParameters
from citus_cluster.operations.view import AnyView

GROUPS, WHERE, NODES = "shards-groups", "shards-where", "nodes-list"
SHADES = 8
CELL = 12
"""Side of a cell, in units of the picture."""
ACROSS = 12
"""Cells in a row of one node."""
MAX_LINKED = 500
"""Cells that can be links of their own; with more of them, the page would grow beyond 500 kB."""
MAX_COLOCATIONS = 30
routes = router()


@dataclass(frozen=True)
class Cell:
    """One group of shards on one node."""

    x: int
    y: int
    shade: str
    title: str
    url: str


@dataclass
class Column:
    """What one node has of a colocation: ``cells`` each a link, or, for many, ``paths`` with one shape a shade."""

    node: str
    size_bytes: int = 0
    groups: int = 0
    height: int = CELL
    cells: list[Cell] = field(default_factory=list)
    paths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """One colocation: the tables whose shards move together, and where they are."""

    title: str
    tables: tuple[str, ...]
    groups: int
    size_bytes: int
    skew: float | None
    columns: tuple[Column, ...]


def draw(rows: Sequence[Any], holders: Collection[str] = ()) -> tuple[Block, ...]:
    """Draw groups of shards (``ShardGroupRow``), the largest colocations first.

    ``holders`` are the nodes that may hold shards: they have a column even while they are empty.
    """
    nodes = sorted({row.node for row in rows} | set(holders))
    together: dict[int | None, list[Any]] = defaultdict(list)
    for row in rows:
        together[row.colocation_id].append(row)
    # Tables with a single shard would each be a picture with one cell.
    alone = together.pop(None, [])
    small = [members for members in together.values() if len({row.group_id for row in members}) == 1]
    large = [members for members in together.values() if len({row.group_id for row in members}) > 1]
    large.sort(key=_bytes_of, reverse=True)
    most = max((row.bytes or 0 for row in rows), default=0)
    is_linked = len(rows) <= MAX_LINKED
    blocks = [
        _block(f"Colocation {members[0].colocation_id}", members, nodes, most, is_linked=is_linked)
        for members in large[:MAX_COLOCATIONS]
    ]
    if rest := large[MAX_COLOCATIONS:]:
        every = [row for members in rest for row in members]
        blocks.append(_block(f"{len(rest)} smaller colocations", every, nodes, most, is_linked=is_linked))
    if small:
        every = [row for members in small for row in members]
        blocks.append(_block("Single shards and reference tables", every, nodes, most, is_linked=is_linked))
    if alone:
        blocks.append(_block("Citus-local tables", alone, nodes, most, is_linked=is_linked))
    return tuple(blocks)


def _bytes_of(rows: Iterable[Any]) -> int:
    return sum(row.bytes or 0 for row in rows)


def _block(title: str, rows: Sequence[Any], nodes: Sequence[str], most: int, *, is_linked: bool) -> Block:
    skews = [row.skew for row in rows if row.skew is not None]
    return Block(
        title=title,
        tables=tuple(dict.fromkeys(table for row in rows for table in row.tables)),
        groups=len({row.group_id for row in rows}),
        size_bytes=_bytes_of(rows),
        skew=max(skews) if skews else None,
        columns=tuple(
            _column(node, [row for row in rows if row.node == node], most, is_linked=is_linked) for node in nodes
        ),
    )


def _column(node: str, rows: Sequence[Any], most: int, *, is_linked: bool) -> Column:
    column = Column(node, _bytes_of(rows), len(rows), CELL * max(1, -(-len(rows) // ACROSS)))
    paths: dict[str, list[str]] = defaultdict(list)
    for place, row in enumerate(sorted(rows, key=lambda row: row.group_id)):
        x, y = CELL * (place % ACROSS), CELL * (place // ACROSS)
        shade = shade_of(row.bytes, most)
        if is_linked:
            size = f"{row.bytes:,} bytes" if row.bytes is not None else "unknown size"
            title = f"group {row.group_id}: {', '.join(row.tables[:3])}, {size}"
            column.cells.append(Cell(x, y, shade, title, f"/views/shards-list?group_id={row.group_id}"))
        else:
            paths[shade].append(f"M{x} {y}h11v11h-11z")
    column.paths = {shade: "".join(parts) for shade, parts in paths.items()}
    return column


def shade_of(size_bytes: int | None, most: int) -> str:
    """Return the class of the shade for a size: ``c0`` for none of it, ``c7`` for the largest."""
    if size_bytes is None:
        return "cu"
    return f"c{min(SHADES - 1, int(SHADES * size_bytes / most)) if most else 0}"


@dataclass(frozen=True)
class NodeTotal:
    """All shards on one node."""

    node: str
    size_bytes: int
    groups: int


def total(rows: Sequence[Any], holders: Collection[str]) -> tuple[tuple[NodeTotal, ...], float | None]:
    """Add up the groups of each node, and compare the largest node with the average.

    Only nodes that may hold shards (``holders``) are compared, if they are known: the coordinator usually has nothing
    but reference tables, and a worker without shards counts.
    """
    totals = {node: NodeTotal(node, 0, 0) for node in holders}
    for row in rows:
        before = totals.get(row.node, NodeTotal(row.node, 0, 0))
        totals[row.node] = NodeTotal(row.node, before.size_bytes + (row.bytes or 0), before.groups + 1)
    sizes = [one.size_bytes for one in totals.values() if not holders or one.node in holders]
    skew = max(sizes) / (sum(sizes) / len(sizes)) if sum(sizes) else None
    return tuple(sorted(totals.values(), key=lambda one: one.node)), skew


async def _holders(parts: Parts, views: Mapping[str, AnyView]) -> frozenset[str]:
    """Return the nodes that may hold shards; none if they cannot be read."""
    if NODES not in views:
        return frozenset()
    try:
        rows = (await parts.snapshots.get(views[NODES], NoParameters())).value
    except FAILURES:
        return frozenset()
    return frozenset(row.node for row in rows if row.should_have_shards and row.node_role == "primary")


@routes.get("/shards")
async def show(request: Request, parts: PartsOf) -> Response:
    views = views_of(request)
    if GROUPS not in views:
        raise NotFoundError("This API has no view of shards.")
    snapshot, holders = await asyncio.gather(parts.snapshots.get(views[GROUPS], NoParameters()), _holders(parts, views))
    rows: Sequence[Any] = snapshot.value
    where = views.get(WHERE)
    fields = forms.fields_of(where.parameters) if where else ()
    given = {name: request.query_params.getlist(name) for name in request.query_params}
    found, error = None, None
    if where and forms.are_complete(fields, given):
        try:
            names = {one.name for one in fields}
            asked = QueryParams([(name, value) for name, values in given.items() if name in names for value in values])
            wanted, _ = read_query(where, asked)
            found = as_data((await parts.snapshots.get(where, wanted)).value)
        except CitusClusterError as failure:
            error = failure
    totals, skew = total(rows, holders)
    context = {
        "blocks": draw(rows, holders),
        "totals": totals,
        "most": max((one.size_bytes for one in totals), default=0),
        "skew": skew,
        "count": len(rows),
        "as_of": snapshot.as_of,
        "fields": fields,
        "values": forms.shown(fields, given),
        "found": found,
        "error": error,
        "shades": range(SHADES),
        "width": CELL * ACROSS,
        "largest": max((row.bytes or 0 for row in rows), default=0),
    }
    return render(request, "shards.html", context, status=error.http_status if error else 200)
