"""The command ``status``; ``watch.py`` repeats it."""

from pathlib import Path

import typer

from citus_cluster.cli.options import (
    DEFAULT_INTERVAL_S,
    DirectoryOption,
    Format,
    FormatOption,
    IntervalOption,
    WatchOption,
    refuse_idle_interval,
)
from citus_cluster.entry import importing


def status(
    context: typer.Context,
    watch: WatchOption = False,
    interval: IntervalOption = DEFAULT_INTERVAL_S,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show services, nodes, tables and a running rebalance. Exit 1 unless everything is healthy."""
    refuse_idle_interval(context, watch=watch)
    with importing():
        import asyncio

        from citus_cluster.cli.watch import watch as repeat
        from citus_cluster.console import cluster, screen
        from citus_cluster.operations.directory import load
        from citus_cluster.operations.status.report import status as read_status

    if watch:
        repeat(directory.absolute(), interval, format_)
    found = asyncio.run(read_status(load(directory.absolute())))
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    else:
        cluster.print_status(found)
    raise typer.Exit(0 if found.ok else 1)
