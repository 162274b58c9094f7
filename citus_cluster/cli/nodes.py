"""The commands that add and remove workers: ``nodes add`` (and ``add-worker``), ``drain``, ``remove``."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from citus_cluster.cli import completion as complete
from citus_cluster.cli.options import (
    DirectoryOption,
    DsnOption,
    Format,
    FormatOption,
    TimeoutOption,
    TrustOption,
    is_on_command_line,
    option,
)
from citus_cluster.cli.rebalance import ModeOption, OnlineOption
from citus_cluster.entry import importing
from citus_cluster.errors import ConsentNeededError, ExitStatus, UsageError, WorkerUnreachableError
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import TransferMode
from citus_cluster.model.names import host_problem

if TYPE_CHECKING:
    from citus_cluster.console.screen import Progress
    from citus_cluster.operations.directory import Directory
    from citus_cluster.operations.nodes.removal import RemovalPlan
    from citus_cluster.runtime.postgres import Connection, ConnectionInfo

T = TypeVar("T")

_NAME_HELP = "Worker, by its service name, HOST or HOST:PORT."
NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME", help=_NAME_HELP, show_default=False, autocompletion=complete.workers)
]


def add_worker(
    context: typer.Context,
    host: Annotated[
        str,
        option(
            "--host",
            help="Name or address at which the coordinator reaches the worker.",
            variable="WORKER_HOST",
            autocompletion=complete.workers,
        ),
    ],
    port: Annotated[
        int, option("--port", help="Port of the worker at that address.", variable="WORKER_PORT", min=1, max=65535)
    ] = 5432,
    start_rebalance: Annotated[
        bool, option("--rebalance", help="Also start a rebalance, which moves shards to the worker.")
    ] = False,
    wait: Annotated[bool, option("--wait", help="Wait until the rebalance is done.")] = False,
    online: OnlineOption = False,
    trust_functions: TrustOption = False,
    timeout: TimeoutOption = 60,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Register a worker with the coordinator. Shards move only with --rebalance."""
    with importing():
        import asyncio
        import time
        from dataclasses import replace

        from citus_cluster.cli.acting import cluster_of, following, journal_of, locate, now_running
        from citus_cluster.console import nodes as shown
        from citus_cluster.console import screen
        from citus_cluster.operations.change import perform
        from citus_cluster.operations.nodes import joining
        from citus_cluster.operations.nodes.registration import reach_coordinator

    if problem := host_problem(host):
        raise UsageError(f"--host: {problem}.", hint="Give a name such as citus-worker4, or an address.")
    info, loaded = locate(directory, dsn)
    hint = _growing_hint(loaded, host)
    wanted = joining.NewWorker(host, port, trust_functions, start_rebalance, online, wait)
    started = time.monotonic()

    async def run(progress: Progress) -> tuple[joining.AddedWorker, RebalanceStatus | None]:
        async def on_coordinator(work: Callable[[Connection], Awaitable[T]], /) -> T:
            async with await reach_coordinator(info, progress.emit, timeout_s=timeout) as conn:
                return await work(conn)

        cluster = replace(
            cluster_of(info, loaded),
            on_coordinator=on_coordinator,
            patience_s=lambda: max(1.0, timeout - (time.monotonic() - started)),
        )
        try:
            added = await perform(joining.ADD, cluster, journal, wanted, progress.emit)
        except WorkerUnreachableError as error:
            raise (WorkerUnreachableError(error.message, hint=hint, details=error.details) if hint else error) from None
        assert isinstance(added, joining.AddedWorker)  # noqa: S101 - the type of the change's result
        return added, await now_running(on_coordinator, added.job_id, added.rebalance)

    with following() as progress:
        journal = journal_of(context, loaded.root if loaded else None)
        added, moved = asyncio.run(run(progress))
    if format_ is Format.JSON:
        screen.print_json({"node": added.as_dict()["node"], "rebalance": moved.as_dict() if moved else None})
        return
    shown.print_added(added.node, moved if not wait else None, rebalanced=start_rebalance)


def _growing_hint(loaded: Directory | None, host: str) -> str | None:
    """Return a hint if the host is this directory's next worker: the set-up creates it, not its registration."""
    from citus_cluster.model.citus.nodes import Role
    from citus_cluster.model.components.citus import service_name

    found = re.fullmatch(r"citus-worker(\d+)", host)
    if loaded is None or found is None or loaded.topology.coordinator is None:
        return None
    if host in {node.service for node in loaded.topology.workers}:
        return None
    count = len(loaded.topology.workers) + 1
    following = max((node.number for node in loaded.topology.workers), default=0) + 1
    if host != service_name(Role.WORKER, following):
        return None
    return (
        f"{host} does not exist here yet. Create, start and register it: "
        f"python setup_citus_cluster.py --workers={count} --yes --up"
    )


def drain(
    context: typer.Context,
    names: NamesArgument,
    wait: Annotated[bool, option("--wait", help="Wait until the drain is done.")] = False,
    mode: ModeOption = TransferMode.AUTO,
    online: OnlineOption = False,
    trust_functions: TrustOption = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Stop the drain, and let the workers hold shards again.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the moves and the problems that would prevent them; change nothing; exit 4 if there are any "
            "moves.",
        ),
    ] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Move all shards off workers, so that they can be removed. The drain continues after this command ends."""
    with importing():
        import asyncio

        from citus_cluster.cli.acting import following, journal_of
        from citus_cluster.console import nodes as shown
        from citus_cluster.console import screen
        from citus_cluster.operations.coordinator import connecting
        from citus_cluster.operations.nodes import use_cases

    # A variable in the environment is a preference, not a conflict.
    if undo and (dry_run or (wait and is_on_command_line(context, "wait"))):
        raise UsageError("--undo cannot be combined with --wait or --dry-run.", hint="Use --undo without them.")
    info, loaded = use_cases.locate(directory.absolute(), dsn)
    root = loaded.root if loaded else None
    if dry_run:
        _show_drain_plan(info, loaded, names, mode, format_, trust_functions=trust_functions, online=online)

    command = f"citus-cluster nodes drain {' '.join(map(quote, names))}"
    stop = f"citus-cluster rebalance stop; then, to let the workers hold shards again: {command} --undo"
    with following(f"{command} --wait", stop) as progress:
        on_coordinator, journal = connecting(info), journal_of(context, root)
        if undo:
            result = asyncio.run(use_cases.undo_drain(on_coordinator, journal, loaded, names, progress.emit))
        else:
            work = use_cases.drain(
                on_coordinator,
                journal,
                loaded,
                names,
                progress.emit,
                mode=mode,
                wait=wait,
                trust_functions=trust_functions,
                online=online,
            )
            result = asyncio.run(work)
    if format_ is Format.JSON:
        screen.print_json(result.as_dict())
    elif undo:
        screen.out.print("Shards that have moved stay where they are; citus-cluster rebalance start balances them.")
    else:
        shown.print_drained(result, root)


def _show_drain_plan(
    info: ConnectionInfo,
    loaded: Directory | None,
    names: list[str],
    mode: TransferMode,
    format_: Format,
    *,
    trust_functions: bool,
    online: bool,
) -> None:
    import asyncio

    from citus_cluster.console import cluster, screen
    from citus_cluster.operations.coordinator import connecting
    from citus_cluster.operations.nodes.use_cases import plan_drain

    work = plan_drain(connecting(info), loaded, names, mode=mode, trust_functions=trust_functions, online=online)
    found = asyncio.run(work)
    moves = found.moves.moves
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    elif moves:
        cluster.print_rebalance_plan(found.moves)
    else:
        screen.out.print("Nothing to move.")
    screen.print_warnings(found.warnings)
    if found.refusal:
        # Not raised: the JSON document contains it already, and the output must stay one document.
        screen.print_error(found.refusal)
        raise typer.Exit(found.refusal.exit_status)
    raise typer.Exit(ExitStatus.WOULD_CHANGE if moves else ExitStatus.DONE)


def remove(
    context: typer.Context,
    names: NamesArgument,
    force: Annotated[
        bool,
        option("--force", help="Drop copies of shards that other nodes have too.", variable="REMOVE_FORCE"),
    ] = False,
    yes: Annotated[bool, option("--yes", help="Agree to the changes that are shown.", variable="REMOVE_YES")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; change nothing; exit 4 if something would change.")
    ] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Remove a drained worker from the node list and cluster.yaml, and remove its container. Its volume stays."""
    if len(names) > 1:
        commands = (f"citus-cluster nodes remove {quote(one)}" for one in names)
        raise UsageError(
            "Workers must be removed one at a time, because the plan for the next depends on it; nothing was changed.",
            hint=f"Run the command for each: {'; '.join(commands)}",
        )
    (name,) = names
    with importing():
        import asyncio

        from citus_cluster.cli.acting import journal_of
        from citus_cluster.console import nodes as shown
        from citus_cluster.console import screen
        from citus_cluster.operations.coordinator import connecting
        from citus_cluster.operations.nodes import use_cases

    info, loaded = use_cases.locate(directory.absolute(), dsn)
    root = loaded.root if loaded else None
    told = format_ is Format.TEXT

    def agree(plan: RemovalPlan) -> bool:
        if told:
            shown.print_removal(plan)
        return plan.nothing_to_do or yes or (told and _ask())

    if dry_run:
        plan = asyncio.run(use_cases.plan_removal(connecting(info), root, name, force=force))
        if told:
            shown.print_removal(plan)
    else:
        with screen.Progress() as progress:
            journal = journal_of(context, root)
            work = use_cases.remove(connecting(info), journal, root, name, progress.emit, force=force, agree=agree)
            plan = asyncio.run(work)
    if not told:
        screen.print_json(plan.as_dict())
    if dry_run:
        raise typer.Exit(ExitStatus.DONE if plan.nothing_to_do else ExitStatus.WOULD_CHANGE)
    if told:
        shown.print_removed(plan)


def _ask() -> bool:
    from citus_cluster.console import screen

    if not screen.interactive():
        return False
    if screen.confirm("Remove it?"):
        return True
    raise ConsentNeededError(
        "The removal was not confirmed; nothing was changed.", hint="To agree, run the command again."
    )
