"""Printing the plans and results of declared changes, and the pages of declared views."""

from collections.abc import Mapping, Sequence
from typing import Any

from citus_cluster.console.screen import err, escape, out, table
from citus_cluster.model.documents import Documented
from citus_cluster.model.listing import Page
from citus_cluster.model.plan.preview import Severity
from citus_cluster.model.units import size
from citus_cluster.operations.view import AnyView


def print_plan(plan: Mapping[str, Any]) -> None:
    """Print the document of a preview: what a change would do, and what the checks found."""
    if not plan["steps"]:
        out.print("Nothing to do.")
    for number, step in enumerate(plan["steps"], 1):
        out.print(f"{number}. {escape(step)}")
    for found in plan["findings"]:
        sign = "[red]✗[/]" if found["severity"] == Severity.BLOCKS else "[yellow]![/]"
        out.print(f"{sign} {escape(found['message'])}")
        if found["fix"]:
            out.print(f"    {escape(found['fix'])}")


def print_result(result: Documented) -> None:
    """Print one value: a line for each of its fields, and a table for each list of values in it."""
    print_fields(result.as_dict())


def print_fields(found: Mapping[str, Any]) -> None:
    """Print a line for each field, and a table for each list of values."""
    lines = {name: value for name, value in found.items() if not _is_rows(value)}
    width = max((len(_title(name)) for name in lines), default=0)
    for name, value in lines.items():
        out.print(f"{_title(name):<{width}}  {escape(cell(name, value))}")
    for name, value in found.items():
        if _is_rows(value):
            columns = list(value[0])
            rows = ([cell(column, row.get(column)) for column in columns] for row in value)
            out.print(table(_title(name), [_title(column) for column in columns], rows))


def print_page(view: AnyView, page: Page, fields: Sequence[str]) -> None:
    """Print one page of a list, and how to get the next one."""
    if not page.items:
        out.print("None.")
        return
    columns = list(fields or view.columns or page.items[0])
    rows = ([cell(column, row[column]) for column in columns] for row in page.items)
    out.print(table("", [_title(column) for column in columns], rows))
    if page.next_cursor:
        err.print(f"{len(page.items)} of {page.total} rows. For the next ones: --cursor {page.next_cursor}")


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _title(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def cell(name: str, value: object) -> str:
    """Return the text of a value; the name of its field says whether it is a size."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (name.endswith("_bytes") or name == "bytes"):
        return size(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(key, one)}" for key, one in value.items()) or "-"
    return str(value)
