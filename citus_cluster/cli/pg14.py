"""Commands for the PostgreSQL 14 pair: status, lag, promote, rebuild-replica."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from citus_cluster.cli import completion as complete
from citus_cluster.cli.options import (
    DEFAULT_INTERVAL_S,
    DirectoryOption,
    Format,
    FormatOption,
    IntervalOption,
    TimeoutOption,
    WatchOption,
    option,
    refuse_idle_interval,
)
from citus_cluster.entry import INTERRUPTED, importing
from citus_cluster.errors import ConsentNeededError

if TYPE_CHECKING:
    from citus_cluster.model.replication import PairStatus

ServerArgument = Annotated[
    str | None, typer.Argument(metavar="[SERVER]", show_default=False, autocompletion=complete.pair)
]
YesOption = Annotated[bool, option("--yes", help="Agree to the changes that are shown.")]


def status(directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT) -> None:
    """Show both servers, the state of replication, and problems. Exit 1 unless everything is healthy."""
    with importing():
        import asyncio

        from citus_cluster.console import pg14, screen
        from citus_cluster.operations.directory import load
        from citus_cluster.operations.pair import status as pg14_status

    loaded = load(directory.absolute())
    found = asyncio.run(pg14_status.status(loaded))
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    else:
        pg14.print_status(found, {server.name: server.host_port for server in pg14_status.pair_of(loaded)})
    raise typer.Exit(0 if found.ok else 1)


def lag(
    context: typer.Context,
    watch: WatchOption = False,
    interval: IntervalOption = DEFAULT_INTERVAL_S,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show how far the replica is behind, in bytes of WAL and seconds. Exit 1 if the lag is unknown."""
    refuse_idle_interval(context, watch=watch)
    with importing():
        import asyncio

        from citus_cluster.operations.directory import load
        from citus_cluster.operations.pair import status as pg14_status

    loaded = load(directory.absolute())
    if not watch:
        found = asyncio.run(pg14_status.status(loaded))
        _print_lag(found, format_)
        raise typer.Exit(0 if found.lag.bytes is not None else 1)
    try:
        while True:
            started = time.monotonic()
            _print_lag(asyncio.run(pg14_status.status(loaded)), format_)
            time.sleep(max(0.0, started + interval - time.monotonic()))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _print_lag(found: PairStatus, format_: Format) -> None:
    from citus_cluster.console import pg14, screen

    if format_ is Format.JSON:
        screen.print_json_line(found.lag.as_dict())
        return
    pg14.print_lag(found)


def promote(
    context: typer.Context,
    server: ServerArgument = None,
    yes: YesOption = False,
    accept_loss: Annotated[
        bool, option("--accept-loss", help="Continue even if committed rows are lost, as far as is known.")
    ] = False,
    timeout: TimeoutOption = 60,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Make SERVER (by default the replica) the primary. The other server is stopped first, and fenced."""
    with importing():
        import asyncio

        from citus_cluster.cli.acting import journal_of
        from citus_cluster.console import pg14, screen
        from citus_cluster.operations.pair import use_cases

    root = directory.absolute()
    with screen.Progress() as progress:
        work = use_cases.promote(
            root,
            journal_of(context, root),
            server,
            progress.emit,
            agree=partial(_agree, yes=yes),
            accept_loss=accept_loss,
            timeout_s=timeout,
        )
        done = asyncio.run(work)
    if format_ is Format.JSON:
        screen.print_json(done.as_dict())
    else:
        pg14.print_promotion(done, root)


def rebuild_replica(
    context: typer.Context,
    server: ServerArgument = None,
    yes: YesOption = False,
    discard: Annotated[
        bool, option("--discard", help="Remove its data even if they contain rows that are missing on the primary.")
    ] = False,
    timeout: TimeoutOption = 3600,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Make SERVER (by default the one that is not the primary) a fresh replica.

    Its own data are removed, or kept under another name if they contain rows that are missing on the primary.
    """
    with importing():
        import asyncio

        from citus_cluster.cli.acting import journal_of
        from citus_cluster.console import pg14, screen
        from citus_cluster.operations.pair import use_cases

    root = directory.absolute()
    with screen.Progress() as progress:
        work = use_cases.rebuild_replica(
            root,
            journal_of(context, root),
            server,
            progress.emit,
            agree=partial(_agree, yes=yes),
            discard=discard,
            timeout_s=timeout,
        )
        plan, found = asyncio.run(work)
    if format_ is Format.JSON:
        screen.print_json({**found.as_dict(), "kept_as": plan.keep_as})
    else:
        pg14.print_rebuild(plan, found)


def _agree(question: str, consequences: Sequence[str], *, yes: bool) -> bool:
    """Print the consequences, and ask for consent on a terminal. Raises ConsentNeededError without consent."""
    from citus_cluster.console import pg14, screen

    if not yes and not screen.interactive():
        return False  # the error has the consequences
    pg14.print_consequences(consequences)
    if not yes and not screen.confirm(question):
        raise ConsentNeededError(
            "The change was not confirmed; nothing was done.", hint="To agree, run the command again."
        )
    return True
