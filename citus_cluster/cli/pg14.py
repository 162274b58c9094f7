"""Commands for the PostgreSQL 14 pair: status, lag, promote, rebuild-replica."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    invocation_of,
    option,
    refuse_idle_interval,
)
from citus_cluster.entry import INTERRUPTED, importing
from citus_cluster.errors import ConsentNeededError

if TYPE_CHECKING:
    from citus_cluster.model.replication import PairStatus
    from citus_cluster.operations.directory import Directory
    from citus_cluster.runtime.docker.engine import Engine

ServerArgument = Annotated[
    str | None, typer.Argument(metavar="[SERVER]", show_default=False, autocompletion=complete.pair)
]
YesOption = Annotated[bool, option("--yes", help="Agree to what is shown.")]


def status(directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT) -> None:
    """Show both servers, how the replica follows, and what is wrong. Exit 1 unless all is well."""
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
    """Show how far the replica is behind: bytes of the log, and seconds. Exit 1 where it cannot be told."""
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
        bool, option("--accept-loss", help="Go on where committed rows are lost, as far as is known.")
    ] = False,
    timeout: TimeoutOption = 60,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Make SERVER (by default the replica) the primary; the other is stopped first, and fenced."""
    with importing():
        import asyncio

        from citus_cluster.cli.acting import recorded
        from citus_cluster.console import pg14, screen
        from citus_cluster.operations.pair import promotion as pg14_promotion

    with _changing(directory) as (loaded, engine):
        plan = asyncio.run(pg14_promotion.plan_promotion(loaded, server, engine))
        # A loss that nobody has accepted is refused below, without a question.
        if not plan.already and (accept_loss or not plan.losses):
            _agree(f"Make {plan.target} the primary?", [*plan.losses, *plan.notes], yes=yes)
        with screen.Progress() as progress:
            done = recorded(
                invocation_of(context),
                loaded.root,
                "pg14-promote",
                lambda: asyncio.run(
                    pg14_promotion.promote(
                        loaded, plan, engine, progress.emit, accept_loss=accept_loss, timeout_s=timeout
                    )
                ),
            )
    if format_ is Format.JSON:
        screen.print_json(done.as_dict())
    else:
        pg14.print_promotion(done, loaded.root)


def rebuild_replica(
    context: typer.Context,
    server: ServerArgument = None,
    yes: YesOption = False,
    discard: Annotated[
        bool, option("--discard", help="Remove its data even where they hold rows that the primary lacks.")
    ] = False,
    timeout: TimeoutOption = 3600,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Make SERVER (by default the one that is not the primary) a fresh replica.

    Its own data are removed, or kept under another name where they hold rows that the primary lacks.
    """
    with importing():
        import asyncio

        from citus_cluster.cli.acting import recorded
        from citus_cluster.console import pg14, screen
        from citus_cluster.operations.pair import rebuild as pg14_rebuild

    with _changing(directory) as (loaded, engine):
        plan = asyncio.run(pg14_rebuild.plan_rebuild(loaded, server, engine, discard=discard))
        if plan.losses:
            _agree(f"Make {plan.target} a fresh replica of {plan.primary}?", plan.losses, yes=yes)
        with screen.Progress() as progress:
            found = recorded(
                invocation_of(context),
                loaded.root,
                "pg14-rebuild-replica",
                lambda: asyncio.run(pg14_rebuild.rebuild(loaded, plan, engine, progress.emit, timeout_s=timeout)),
            )
    if format_ is Format.JSON:
        screen.print_json({**found.as_dict(), "kept_as": plan.keep_as})
    else:
        pg14.print_rebuild(plan, found)


@contextmanager
def _changing(directory: Path) -> Iterator[tuple[Directory, Engine]]:
    """Hold the directory's lock, with the cluster as it is from then on, and its engine."""
    with importing():
        from citus_cluster.operations.directory import load
        from citus_cluster.runtime.docker.engine import Engine
        from citus_cluster.runtime.store import files

    root = load(directory.absolute()).root
    with files.locked(root):
        yield load(root), Engine.connect()


def _agree(question: str, consequences: Sequence[str], *, yes: bool) -> None:
    """Say what follows, and ask, on a terminal. Raises ConsentNeededError where nobody has agreed."""
    from citus_cluster.console import pg14, screen

    if yes:
        pg14.print_consequences(consequences)
        return
    if not screen.interactive():
        raise ConsentNeededError(
            f"{question} Nobody has agreed; nothing was done.", details=consequences, hint="To agree, add --yes."
        )
    pg14.print_consequences(consequences)
    if not screen.confirm(question):
        raise ConsentNeededError("Nothing was done.", hint="Run the command again when you agree.")
