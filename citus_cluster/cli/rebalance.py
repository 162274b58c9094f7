"""The commands ``rebalance``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from citus_cluster.cli.options import (
    DirectoryOption,
    DsnOption,
    Format,
    FormatOption,
    TrustOption,
    option,
)
from citus_cluster.entry import importing
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, RebalancePlan, TransferMode

if TYPE_CHECKING:
    from citus_cluster.model.plan.events import Emit
    from citus_cluster.runtime.postgres import Connection, ConnectionInfo

StrategyOption = Annotated[str | None, option("--strategy", help="Rebalance strategy.", show_default="the server's")]
ModeOption = Annotated[TransferMode, option("--mode", help="How shards move.")]
OnlineOption = Annotated[bool, option("--online", help="Hold writes during no move, not even for small shards.")]
DrainOnlyOption = Annotated[bool, option("--drain-only", help="Only move shards off nodes that must not hold shards.")]
ReferenceOption = Annotated[
    bool,
    option(
        "--parallel-transfer-reference-tables", help="Copy reference tables in parallel, if the server supports it."
    ),
]
ColocatedOption = Annotated[
    bool,
    option(
        "--parallel-transfer-colocated-shards", help="Move colocated shards in parallel, if the server supports it."
    ),
]


def plan(
    strategy: StrategyOption = None,
    mode: ModeOption = TransferMode.AUTO,
    online: OnlineOption = False,
    drain_only: DrainOnlyOption = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show the shards that a rebalance would move, and the size of each node before and after."""
    with importing():
        from citus_cluster.cli.acting import locate, run_on
        from citus_cluster.console import cluster, screen
        from citus_cluster.operations.rebalance import control as rebalance

    options = RebalanceOptions(strategy=strategy, mode=mode, online=online, drain_only=drain_only)

    async def work(conn: Connection) -> tuple[RebalancePlan, tuple[str, ...]]:
        preview = await rebalance.plan(conn, options)
        return preview, await rebalance.warnings(conn, preview)

    info, _ = locate(directory, dsn)
    found, warnings = run_on(info, work)
    if format_ is Format.JSON:
        screen.print_json({**found.as_dict(), "warnings": list(warnings)})
    else:
        cluster.print_rebalance_plan(found)
        screen.print_warnings(warnings)


def start(
    context: typer.Context,
    strategy: StrategyOption = None,
    mode: ModeOption = TransferMode.AUTO,
    online: OnlineOption = False,
    drain_only: DrainOnlyOption = False,
    parallel_reference: ReferenceOption = False,
    parallel_colocated: ColocatedOption = False,
    trust_functions: TrustOption = False,
    wait: Annotated[bool, option("--wait", help="Wait until the rebalance is done.")] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Start a rebalance. It continues after this command ends."""
    with importing():
        import asyncio

        from citus_cluster.cli.acting import cluster_of, following, journal_of, locate, now_running
        from citus_cluster.console import cluster, screen
        from citus_cluster.operations.change import perform
        from citus_cluster.operations.rebalance import changes
        from citus_cluster.operations.rebalance.use_cases import StartedRebalance

    wanted = changes.NewRebalance(
        strategy=strategy,
        mode=mode,
        online=online,
        drain_only=drain_only,
        parallel_transfer_reference_tables=parallel_reference,
        parallel_transfer_colocated_shards=parallel_colocated,
        trust_functions=trust_functions,
        wait=wait,
    )
    with following() as progress:
        info, loaded = locate(directory, dsn)
        journal = journal_of(context, loaded.root if loaded else None)
        here = cluster_of(info, loaded)

        async def run() -> RebalanceStatus | None:
            started = await perform(changes.START, here, journal, wanted, progress.emit)
            assert isinstance(started, StartedRebalance)  # noqa: S101 - the type of the change's result
            return await now_running(here.on_coordinator, started.job_id, started.rebalance)

        found = asyncio.run(run())
    if format_ is Format.JSON:
        screen.print_json({"rebalance": found.as_dict() if found else None})
    elif found and not wait:
        cluster.print_rebalance(found)


def status(dsn: DsnOption = None, directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT) -> None:
    """Show the running or the last rebalance: progress, rate, time left, and problems."""
    with importing():
        from citus_cluster.cli.acting import locate, run_on
        from citus_cluster.operations.rebalance import watch as rebalance_watch

    info, _ = locate(directory, dsn)
    _print_status(run_on(info, rebalance_watch.status), format_)


def stop(
    context: typer.Context,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Stop the running rebalance. Shards that have moved stay where they are."""
    with importing():
        import asyncio

        from citus_cluster.cli.acting import cluster_of, journal_of, locate
        from citus_cluster.console import screen
        from citus_cluster.model.parameters import NoParameters
        from citus_cluster.operations.change import perform
        from citus_cluster.operations.rebalance import changes

    with screen.Progress() as progress:
        info, loaded = locate(directory, dsn)
        journal = journal_of(context, loaded.root if loaded else None)
        found = asyncio.run(perform(changes.STOP, cluster_of(info, loaded), journal, NoParameters(), progress.emit))
    assert isinstance(found, RebalanceStatus)  # noqa: S101 - the type of the change's result
    _print_status(found, format_)


def wait(dsn: DsnOption = None, directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT) -> None:
    """Show the progress of the running rebalance until it is done. Ctrl-C ends only this command."""
    with importing():
        import asyncio

        from citus_cluster.cli.acting import following, locate
        from citus_cluster.console import screen
        from citus_cluster.operations.coordinator import connecting
        from citus_cluster.operations.rebalance import watch as rebalance_watch

    async def follow(info: ConnectionInfo, emit: Emit) -> RebalanceStatus:
        on_coordinator = connecting(info)
        # A coordinator that does not answer is an error now, and is waited for only later.
        await on_coordinator(rebalance_watch.status)
        return await rebalance_watch.follow(on_coordinator, emit)

    with following() as progress:
        info, _ = locate(directory, dsn)
        found = asyncio.run(follow(info, progress.emit))
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    elif found.state is JobState.NONE:
        screen.out.print("No rebalance has run yet.")


def _print_status(found: RebalanceStatus, format_: Format) -> None:
    from citus_cluster.console import cluster, screen

    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    else:
        cluster.print_rebalance(found)
