"""Printing operations of the admin API."""

from collections.abc import Mapping, Sequence
from typing import Any

from citus_cluster.console.declared import cell, print_fields
from citus_cluster.console.screen import err, escape, out, table

_LISTED = ("id", "kind", "state", "created_at", "ended_at", "by", "last_message")
_SHOWN = ("id", "kind", "state", "command", "by", "created_at", "ended_at", "attempts", "resumable")


def print_list(found: Sequence[Mapping[str, Any]], total: int) -> None:
    """Print operations as the API lists them, and how many more there are."""
    if not found:
        out.print("None.")
        return
    rows = ([cell(name, _brief(name, one)) for name in _LISTED] for one in found)
    out.print(table("", [name.replace("_", " ") for name in _LISTED], rows))
    if total > len(found):
        err.print(f"{len(found)} of {total} operations. To see more: --limit {min(total, 1000)}")


def print_operation(found: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
    """Print an operation with its plan, its events, its error or result, and its diff."""
    print_fields({name: _brief(name, found) for name in _SHOWN})
    steps = found["plan"].get("steps") or ()
    if steps:
        out.print("[bold]Plan[/]")
    for number, step in enumerate(steps, 1):
        out.print(f"{number}. {escape(step)}")
    out.print("[bold]Events[/]")
    for one in events:
        out.print(f"{one['time']}  {one['kind']:<8}  {escape(one['message'])}")
    for name in ("error", "result"):
        if found[name]:
            out.print(f"[bold]{name.capitalize()}[/]")
            print_fields(found[name])
    if changes := (found["diff"] or {}).get("changes"):
        print_fields({"changes": changes})


def _brief(name: str, one: Mapping[str, Any]) -> Any:
    if name != "by":
        return one[name]
    by = one["by"]
    return by.get("name") or by.get("user") or by.get("program")
