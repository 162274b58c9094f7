"""The commands ``nodes drain`` and ``nodes remove``."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Annotated, TypeVar

import typer

from citus_cluster.cli.cluster import DsnOption, ModeOption, TrustOption, connected, following, recorded
from citus_cluster.cli.options import DirectoryOption, Format, FormatOption, choose_format, option
from citus_cluster.console import cluster, screen
from citus_cluster.console.screen import escape
from citus_cluster.errors import ConsentNeededError, ExitStatus, UsageError
from citus_cluster.model.leaving import resolve_name
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.rebalance import TransferMode
from citus_cluster.model.units import count
from citus_cluster.operations import drain, leaving, removal
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.drain import Drained, DrainPlan
from citus_cluster.operations.removal import RemovalPlan
from citus_cluster.runtime import files
from citus_cluster.runtime.postgres import Connection, ConnectionInfo

T = TypeVar("T")

_NAME_HELP = "Worker: its service, HOST or HOST:PORT."
NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME", help=_NAME_HELP, show_default=False)]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help=_NAME_HELP, show_default=False)]


def nodes_drain(
    context: typer.Context,
    names: NamesArgument,
    wait: Annotated[bool, option("--wait", help="Stay until it is done.")] = False,
    mode: ModeOption = TransferMode.AUTO,
    trust_functions: TrustOption = False,
    undo: Annotated[bool, typer.Option("--undo", help="Stop it, and let the workers hold shards again.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the moves, and what would stop them; change nothing; exit 4 if there are any."
        ),
    ] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Move all shards off workers, online, so that they can be removed. It continues when this command has ended."""
    choose_format(format_)
    source = context.get_parameter_source("wait")
    # A variable in the environment is a preference, not a contradiction.
    if undo and (dry_run or (wait and source and source.name == "COMMANDLINE")):
        raise UsageError("--undo neither waits nor previews.", hint="Give it alone.")
    info, loaded = _locate(directory, dsn)
    root = loaded.root if loaded else None
    if dry_run:
        _show_drain_plan(info, loaded, names, mode, format_, trust_functions=trust_functions)

    command = f"citus-cluster nodes drain {' '.join(map(quote, names))}"
    stop = f"citus-cluster rebalance stop; then, to let the workers hold shards again: {command} --undo"
    with following(f"{command} --wait", stop) as progress:

        async def work(conn: Connection) -> Drained:
            workers = await _resolve(conn, loaded, names)
            if undo:
                return await drain.undo(conn, workers, progress.emit)
            return await drain.drain(
                conn, workers, progress.emit, mode=mode, wait=wait, trust_functions=trust_functions
            )

        operation = "nodes-drain-undo" if undo else "nodes-drain"
        result = recorded(root, operation, lambda: _run(info, work))
    if format_ is Format.JSON:
        screen.print_json(result.as_dict())
    elif undo:
        screen.out.print("Shards that have moved stay where they are; citus-cluster rebalance start balances them.")
    else:
        _print_drained(result, root)


def _show_drain_plan(
    info: ConnectionInfo,
    loaded: Directory | None,
    names: list[str],
    mode: TransferMode,
    format_: Format,
    *,
    trust_functions: bool,
) -> None:
    async def work(conn: Connection) -> DrainPlan:
        return await drain.plan(conn, await _resolve(conn, loaded, names), mode=mode, trust_functions=trust_functions)

    found = _run(info, work)
    moves = found.moves.moves
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    elif moves:
        cluster.print_rebalance_plan(found.moves)
    else:
        screen.out.print("Nothing to move.")
    screen.print_warnings(found.warnings)
    if found.refusal:
        # Not raised: with JSON it is in what was printed, which is to stay one document.
        screen.print_error(found.refusal)
        raise typer.Exit(found.refusal.exit_status)
    raise typer.Exit(ExitStatus.WOULD_CHANGE if moves else ExitStatus.DONE)


def _print_drained(result: Drained, root: Path | None) -> None:
    if result.rebalance is None or result.rebalance.state.is_final:
        screen.out.print("Next:")
        for found in result.departures:
            command = f"citus-cluster nodes remove {quote(found.name)}"
            screen.out.print(f"  {escape(screen.pasteable(command, root) if root else command)}")
        return
    cluster.print_rebalance(result.rebalance)
    names = " ".join(found.name for found in result.departures)
    screen.err.print(
        f"It continues in the background; follow it with: citus-cluster nodes drain {escape(names)} --wait"
    )


def nodes_remove(
    context: typer.Context,
    name: NameArgument,
    force: Annotated[
        bool,
        option("--force", help="Let copies go of shards that other nodes have too.", variable="REMOVE_FORCE"),
    ] = False,
    yes: Annotated[bool, option("--yes", help="Agree to the changes that are shown.", variable="REMOVE_YES")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; change nothing; exit 4 if something would change.")
    ] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Take a drained worker out: of the node list, of cluster.yaml, and its container. Its volume stays."""
    choose_format(format_)
    if context.args:
        commands = (f"citus-cluster nodes remove {quote(one)}" for one in (name, *context.args))
        raise UsageError(
            "One worker is removed at a time, since the plan for the next depends on it; nothing was changed.",
            hint=f"Run it for each: {'; '.join(commands)}",
        )
    info, loaded = _locate(directory, dsn)
    root = loaded.root if loaded else None
    shown = format_ is Format.TEXT

    async def decide(conn: Connection) -> RemovalPlan:
        here = load(root, may_lack_workers=True) if root else None  # again, under the lock
        worker = (await _resolve(conn, here, [name]))[name]
        return await removal.plan_removal(conn, here, name, worker, force=force)

    def act() -> RemovalPlan:
        plan = _run(info, decide)
        if shown:
            _print_plan(plan)
        if not plan.nothing_to_do and not yes and not dry_run:
            _ask(shown)
        if not dry_run:
            with screen.Progress() as progress:
                _run(info, lambda conn: removal.remove(conn, plan, progress.emit))
        return plan

    with files.locked(root) if root else nullcontext():
        plan = act() if dry_run else recorded(root, "nodes-remove", act)
    if not shown:
        screen.print_json(plan.as_dict())
    if dry_run:
        raise typer.Exit(ExitStatus.DONE if plan.nothing_to_do else ExitStatus.WOULD_CHANGE)
    if shown:
        _print_removed(plan)


def _ask(shown: bool) -> None:
    if shown and screen.interactive():
        if screen.confirm("Remove it?"):
            return
        raise ConsentNeededError("Nothing was changed.", hint="Run the command again when you agree.")
    raise ConsentNeededError(
        "A worker would be removed, and nobody agreed to it; nothing was changed.",
        hint="Look at the plan with --dry-run, then agree with --yes.",
    )


def _print_plan(plan: RemovalPlan) -> None:
    found = plan.departure
    if plan.nothing_to_do:
        screen.out.print(f"Nothing to do: {escape(str(found.address))} has left the cluster.")
        return
    if found.node:
        holds = f", with copies of {count(found.shards, 'shard')} that other nodes have too" if found.shards else ""
        screen.out.print(f"[bold]{escape(str(found.address))}[/] leaves the node list{escape(holds)}")
    else:
        screen.out.print(f"[bold]{escape(str(found.address))}[/] is not in the node list any more")
    if plan.setup:
        screen.print_plan(plan.setup, diffs=False, later=True)
    if plan.container:
        screen.out.print(f"  remove    the container {escape(plan.container.name)}")
    if plan.volume:
        screen.out.print(f"  keep      the volume {escape(plan.volume)}")
    if plan.setup:
        screen.print_warnings(plan.setup.warnings)
    screen.print_warnings(plan.notes)


def _print_removed(plan: RemovalPlan) -> None:
    if not plan.nothing_to_do:
        screen.out.print(f"{escape(str(plan.departure.address))} has left the cluster.")
    meaning = "when nothing in it is needed" + ("; its number is free then" if plan.setup else "")
    lines = {f"docker volume rm {plan.volume}": meaning}
    lines = lines if plan.volume else {}
    if plan.restarts and plan.setup:
        up = screen.pasteable("citus-cluster up", plan.setup.root)
        lines[up] = f"gives its memory to the others: restarts {', '.join(plan.restarts)}"
    width = max((len(command) for command in lines), default=0)
    if lines:
        screen.out.print("Next:")
    for command, meaning in lines.items():
        screen.out.print(f"  {escape(command):<{width}}   # {escape(meaning)}")


def _locate(directory: Path, dsn: str | None) -> tuple[ConnectionInfo, Directory | None]:
    """Give how to reach the coordinator, and the directory here, whose cluster.yaml may lack workers already.

    A coordinator that is named by a DSN has nothing to do with a directory that has one of its own; with that of
    workers alone it shares the superuser and the password, which the DSN need not hold.
    """
    root = directory.absolute()
    if dsn is None:
        loaded = load(root, may_lack_workers=True)
        return loaded.coordinator(), loaded
    here = load(root, may_lack_workers=True) if files.read_manifest(root) else None
    info = ConnectionInfo.from_dsn(dsn)
    if here is None or here.spec.coordinator:
        return info, None
    if not info.password and info.user == here.topology.user:
        info = replace(info, password=here.password)
    return info, here


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
    # Words too many are refused with a better reason than the parser's.
    of_nodes.command("remove", context_settings={"allow_extra_args": True})(nodes_remove)
