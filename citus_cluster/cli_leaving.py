"""The commands ``nodes drain`` and ``nodes remove``."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from pathlib import Path
from shlex import quote
from typing import Annotated, TypeVar

import typer
from rich.markup import escape

from citus_cluster import console, console_cluster
from citus_cluster.cli_cluster import DsnOption, ModeOption, connected, recorded
from citus_cluster.cli_options import DirectoryOption, Format, FormatOption, choose_format, option
from citus_cluster.errors import ConsentNeededError, ExitStatus, UsageError
from citus_cluster.model.leaving import count, resolve_name
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.rebalance import RebalancePlan, TransferMode
from citus_cluster.operations import drain, leaving, removal
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.drain import Drained
from citus_cluster.operations.removal import RemovalPlan
from citus_cluster.runtime import files
from citus_cluster.runtime.postgres import Connection, ConnectionInfo

T = TypeVar("T")

_NAME_HELP = "Worker: its service, HOST or HOST:PORT."
NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME", help=_NAME_HELP, show_default=False)]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help=_NAME_HELP, show_default=False)]


def nodes_drain(
    names: NamesArgument,
    wait: Annotated[bool, option("--wait", help="Stay until it is done.")] = False,
    mode: ModeOption = TransferMode.AUTO,
    undo: Annotated[bool, typer.Option("--undo", help="Stop it, and let the workers hold shards again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the moves; change nothing; exit 4 if there are any.")
    ] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Move all shards off workers, online, so that they can be removed. Citus' own job: it goes on by itself."""
    choose_format(format_)
    if undo and (wait or dry_run):
        raise UsageError("--undo neither waits nor previews.", hint="Give it alone.")
    info, loaded = _locate(directory, dsn, names)
    root = loaded.root if loaded else None
    if dry_run:
        _show_drain_plan(info, loaded, names, format_)

    with console.Progress() as progress:

        async def work(conn: Connection) -> Drained:
            workers = await _resolve(conn, loaded, names)
            if undo:
                return await drain.undo(conn, workers, progress.emit)
            return await drain.drain(conn, workers, progress.emit, mode=mode, wait=wait)

        operation = "nodes-drain-undo" if undo else "nodes-drain"
        result = recorded(root, operation, lambda: _run(info, work))
    if format_ is Format.JSON:
        console.print_json(result.as_dict())
    elif undo:
        console.out.print("Shards that have moved stay where they are; citus-cluster rebalance start balances them.")
    else:
        _print_drained(result, root)


def _show_drain_plan(info: ConnectionInfo, loaded: Directory | None, names: list[str], format_: Format) -> None:
    async def work(conn: Connection) -> RebalancePlan:
        return await drain.plan(conn, await _resolve(conn, loaded, names))

    found = _run(info, work)
    if format_ is Format.JSON:
        console.print_json(found.as_dict())
    elif found.moves:
        console_cluster.print_rebalance_plan(found)
    else:
        console.out.print("Nothing to move.")
    raise typer.Exit(ExitStatus.WOULD_CHANGE if found.moves else ExitStatus.DONE)


def _print_drained(result: Drained, root: Path | None) -> None:
    if result.rebalance is None or result.rebalance.state.is_final:
        console.out.print("Next:")
        for found in result.departures:
            command = f"citus-cluster nodes remove {quote(found.name)}"
            console.out.print(f"  {escape(console.pasteable(command, root) if root else command)}")
        return
    console_cluster.print_rebalance(result.rebalance)
    names = " ".join(found.name for found in result.departures)
    console.err.print(f"It goes on by itself; follow it with: citus-cluster nodes drain {escape(names)} --wait")


def nodes_remove(
    name: NameArgument,
    force: Annotated[
        bool,
        option("--force", help="Let copies go of shards that other nodes have too.", variable="REMOVE_FORCE"),
    ] = False,
    yes: Annotated[bool, option("--yes", help="Agree to the changes that are shown.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; change nothing; exit 4 if something would change.")
    ] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Take a drained worker out: of the node list, of cluster.yaml, and its container. Its volume stays."""
    choose_format(format_)
    info, loaded = _locate(directory, dsn, [name])
    root = loaded.root if loaded else None
    shown = format_ is Format.TEXT

    async def decide(conn: Connection) -> RemovalPlan:
        here = load(root, leaving=[name]) if root else None  # again, under the lock
        worker = (await _resolve(conn, here, [name]))[name]
        return await removal.plan_removal(conn, here, name, worker, force=force)

    def act() -> RemovalPlan:
        plan = _run(info, decide)
        if shown:
            _print_plan(plan)
        if not plan.nothing_to_do and not yes and not dry_run:
            _ask(shown)
        if not dry_run:
            with console.Progress() as progress:
                _run(info, lambda conn: removal.remove(conn, plan, progress.emit))
        return plan

    with files.locked(root) if root else nullcontext():
        plan = act() if dry_run else recorded(root, "nodes-remove", act)
    if not shown:
        console.print_json(plan.as_dict())
    if dry_run:
        raise typer.Exit(ExitStatus.DONE if plan.nothing_to_do else ExitStatus.WOULD_CHANGE)
    if shown:
        _print_removed(plan)


def _ask(shown: bool) -> None:
    if shown and console.interactive():
        if console.confirm("Remove it?"):
            return
        raise ConsentNeededError("Nothing was changed.", hint="Run the command again when you agree.")
    raise ConsentNeededError(
        "A worker would be removed, and nobody agreed to it; nothing was changed.",
        hint="Look at the plan with --dry-run, then agree with --yes.",
    )


def _print_plan(plan: RemovalPlan) -> None:
    found = plan.departure
    if plan.nothing_to_do:
        console.out.print(f"Nothing to do: {escape(str(found.address))} has left the cluster.")
        return
    if found.node:
        holds = f", with copies of {count(found.shards, 'shard')} that other nodes have too" if found.shards else ""
        console.out.print(f"[bold]{escape(str(found.address))}[/] leaves the node list{escape(holds)}")
    else:
        console.out.print(f"[bold]{escape(str(found.address))}[/] is not in the node list any more")
    if plan.setup:
        console.print_plan(plan.setup, diffs=False)
    if plan.container:
        console.out.print(f"  remove    the container {escape(plan.container.name)}")
    if plan.volume:
        console.out.print(f"  keep      the volume {escape(plan.volume)}")
    if plan.setup:
        console.print_warnings(plan.setup.warnings)
    console.print_warnings(plan.notes)


def _print_removed(plan: RemovalPlan) -> None:
    if not plan.nothing_to_do:
        console.out.print(f"{escape(str(plan.departure.address))} has left the cluster.")
    lines = {f"docker volume rm {plan.volume}": "when nothing in it is needed; its number is free then"}
    lines = lines if plan.volume else {}
    if plan.restarts and plan.setup:
        up = console.pasteable("citus-cluster up", plan.setup.root)
        lines[up] = f"gives its memory to the others: restarts {', '.join(plan.restarts)}"
    width = max((len(command) for command in lines), default=0)
    if lines:
        console.out.print("Next:")
    for command, meaning in lines.items():
        console.out.print(f"  {escape(command):<{width}}   # {escape(meaning)}")


def _locate(directory: Path, dsn: str | None, names: list[str]) -> tuple[ConnectionInfo, Directory | None]:
    """Give how to reach the coordinator, and the directory here, which may lack these workers already.

    A coordinator that is named by a DSN has nothing to do with a directory that has one of its own.
    """
    root = directory.absolute()
    if dsn is None:
        loaded = load(root, leaving=names)
        return loaded.coordinator(), loaded
    here = load(root, leaving=names) if files.read_manifest(root) else None
    return ConnectionInfo.from_dsn(dsn), here if here and here.topology.coordinator is None else None


async def _resolve(conn: Connection, loaded: Directory | None, names: list[str]) -> dict[str, NodeAddress]:
    registry = await leaving.registry(conn)
    own = removal.workers_of(loaded)
    return {name: resolve_name(name, own, registry) for name in dict.fromkeys(names)}


def _run(info: ConnectionInfo, work: Callable[[Connection], Coroutine[None, None, T]]) -> T:
    async def run() -> T:
        async with connected(info) as conn:
            return await work(conn)

    return asyncio.run(run())


def add_commands(of_nodes: typer.Typer) -> None:
    """Add every command of this module to the group of the nodes."""
    of_nodes.command("drain")(nodes_drain)
    of_nodes.command("remove")(nodes_remove)
