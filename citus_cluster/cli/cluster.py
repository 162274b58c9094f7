"""Commands for an existing cluster: up, down, status, nodes, rebalance."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from citus_cluster.cli.options import (
    DirectoryOption,
    Format,
    FormatOption,
    ShowSecretsOption,
    TimeoutOption,
    WatchOption,
    choose_format,
    option,
    redacted,
)
from citus_cluster.cli.watch import watch
from citus_cluster.console import cluster, screen
from citus_cluster.console.screen import escape
from citus_cluster.entry import INTERRUPTED
from citus_cluster.errors import CitusClusterError, UsageError, WorkerUnreachableError
from citus_cluster.model.components.citus import service_name
from citus_cluster.model.names import host_problem
from citus_cluster.model.nodes import NodeAddress, NodeResult, Outcome, Role
from citus_cluster.model.rebalance import JobState, RebalanceOptions, RebalancePlan, RebalanceStatus, TransferMode
from citus_cluster.operations import nodes, rebalance, rebalance_watch
from citus_cluster.operations.directory import Directory, load
from citus_cluster.runtime import files, journal
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 10
_FOLLOW = "citus-cluster rebalance wait"

DsnOption = Annotated[
    str | None,
    option("--dsn", help="The coordinator's connection string, where its directory is not here.", show_default=False),
]
StrategyOption = Annotated[str | None, option("--strategy", help="Rebalance strategy.", show_default="the server's")]
ModeOption = Annotated[TransferMode, option("--mode", help="How shards are moved.")]
DrainOnlyOption = Annotated[bool, option("--drain-only", help="Only move shards off nodes that shall have none.")]
ReferenceOption = Annotated[
    bool,
    option("--parallel-transfer-reference-tables", help="Copy reference tables in parallel, where the server can."),
]
ColocatedOption = Annotated[
    bool,
    option("--parallel-transfer-colocated-shards", help="Move colocated shards in parallel, where the server can."),
]

TrustOption = Annotated[
    bool,
    # No variable of the environment: nobody should trust code by accident.
    typer.Option(
        "--trust-functions",
        help="Proceed even if code of ordinary roles would run as the superuser; its owners could become superuser.",
    ),
]


def recorded(root: Path | None, operation: str, work: Callable[[], T]) -> T:
    """Run ``work`` and keep a line of it in the journal, whatever comes of it."""
    details: dict[str, object] = {"arguments": redacted(sys.argv[1:])}
    try:
        result = work()
    except BaseException as error:
        if root:
            said = {"error": type(error).__name__}
            if isinstance(error, CitusClusterError):
                said = {"error": error.code, "message": error.message}
            journal.record(root, operation, "failed", {**details, **said})
        raise
    if root:
        journal.record(root, operation, "done", details)
    return result


@contextmanager
def following(follow: str = _FOLLOW, stop: str = "citus-cluster rebalance stop") -> Iterator[screen.Progress]:
    """Show progress. Where Ctrl-C ends it while a rebalance runs, say that this goes on, and how to go on with it."""
    progress = screen.Progress()
    try:
        with progress:
            yield progress
    except KeyboardInterrupt:
        if not progress.is_under_way(rebalance_watch.STEP):
            raise
        screen.err.print(
            f"Interrupted. The rebalance continues in the background. To follow it: {follow}\nTo stop it: {stop}",
            markup=False,
        )
        sys.exit(INTERRUPTED)  # at once: the way by the parser ends in a word about work that is not done


def start(
    root: Path, *, timeout_s: float, show_secrets: bool, show: bool, upgrade_citus: bool = False
) -> dict[str, Any]:
    """Start, register and verify the cluster in ``root``, and print what to paste.

    ``upgrade_citus`` agrees to the update of Citus' extension, for which there must be a backup.
    """
    from citus_cluster.operations.up import UpResult
    from citus_cluster.operations.up import up as start_cluster

    load(root)  # refuses a directory without a cluster, before a lock file is made there

    def agree(question: str) -> bool:
        return upgrade_citus or (show and screen.interactive() and screen.confirm(question))

    def show_citus(result: UpResult) -> None:
        if show and directory.topology.nodes:
            cluster.print_block(result, root, show_secrets=show_secrets)

    with files.locked(root), screen.Progress() as progress:
        directory = load(root)
        work = partial(
            start_cluster,
            directory,
            progress.emit,
            timeout_s=timeout_s,
            on_citus=show_citus,
            agree=agree,
            upgrade_citus=upgrade_citus,
        )
        result = recorded(root, "up", lambda: asyncio.run(work()))
    if show:
        cluster.print_companions_block(result, root)
    return result.as_dict(show_secrets=show_secrets)


def up(
    directory: DirectoryOption = Path(),
    timeout: TimeoutOption = 300,
    upgrade_citus: Annotated[
        bool,
        option(
            "--upgrade-citus",
            help="Agree to update Citus' extension to the image's newer Citus. It cannot be undone: back up first.",
        ),
    ] = False,
    show_secrets: ShowSecretsOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Start everything, register the workers, and verify with a real distributed write."""
    choose_format(format_)
    result = start(
        directory.absolute(),
        timeout_s=timeout,
        show_secrets=show_secrets,
        show=format_ is Format.TEXT,
        upgrade_citus=upgrade_citus,
    )
    if format_ is Format.JSON:
        screen.print_json(result)


def down(
    directory: DirectoryOption = Path(),
    volumes: Annotated[bool, typer.Option("--volumes", help="Also remove the volumes: all data is lost.")] = False,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", help="The cluster's name, for --volumes without a question.", show_default=False),
    ] = None,
) -> None:
    """Stop and remove the containers. The data stays in its volumes, unless --volumes."""
    from citus_cluster.operations.down import down as stop_cluster

    loaded = load(directory.absolute())
    if volumes:
        name = loaded.topology.name
        if confirm is None and screen.interactive():
            confirm = typer.prompt(f"All data of the cluster is lost. Type its name ({name}) to go on", err=True)
        if confirm != name:
            raise UsageError(
                f"down --volumes removes all data of {name!r}, and its name was not confirmed; nothing was done.",
                hint=f"To agree, add --confirm {name}.",
            )
    with files.locked(loaded.root), screen.Progress() as progress:
        recorded(loaded.root, "down", lambda: asyncio.run(stop_cluster(loaded, progress.emit, volumes=volumes)))


def status(
    watch_s: WatchOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show services, nodes, tables and a running rebalance. Exit 1 unless all is well."""
    from citus_cluster.operations.status import status as read_status

    choose_format(format_)
    if watch_s is not None:
        watch(directory.absolute(), watch_s, format_)
    found = asyncio.run(read_status(load(directory.absolute())))
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    else:
        cluster.print_status(found)
    raise typer.Exit(0 if found.ok else 1)


def locate(directory: Path, dsn: str | None) -> tuple[ConnectionInfo, Directory | None]:
    """Give how to reach the coordinator, and its directory unless it was named by a DSN."""
    if dsn is not None:
        return ConnectionInfo.from_dsn(dsn), None
    loaded = load(directory.absolute())
    return loaded.coordinator(), loaded


@asynccontextmanager
async def connected(info: ConnectionInfo) -> AsyncIterator[Connection]:
    """Be connected to a server for the length of a block."""
    conn = await connect(info, timeout_s=_CONNECT_TIMEOUT_S)
    async with conn:
        yield conn


def _on_coordinator(
    directory: Path, dsn: str | None, operation: str | None, work: Callable[[Connection], Awaitable[T]]
) -> T:
    info, loaded = locate(directory, dsn)

    async def run() -> T:
        async with connected(info) as conn:
            return await work(conn)

    if operation is None:
        return asyncio.run(run())
    return recorded(loaded.root if loaded else None, operation, lambda: asyncio.run(run()))


def add_worker(
    host: Annotated[
        str,
        option("--host", help="Name or address of the worker, as the coordinator reaches it.", variable="WORKER_HOST"),
    ],
    port: Annotated[int, option("--port", help="Its port there.", variable="WORKER_PORT", min=1, max=65535)] = 5432,
    start_rebalance: Annotated[
        bool, option("--rebalance", help="Then start a rebalance, which moves shards onto the worker.")
    ] = False,
    wait: Annotated[bool, option("--wait", help="Stay until the rebalance is done.")] = False,
    trust_functions: TrustOption = False,
    timeout: TimeoutOption = 60,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Register one worker with the coordinator; moves no shard unless --rebalance is given."""
    choose_format(format_)
    if problem := host_problem(host):
        raise UsageError(f"--host: {problem}.", hint="Give a name such as citus-worker4, or an address.")
    if wait and not start_rebalance:
        raise UsageError("--wait waits for a rebalance, and none is asked for.", hint="Add --rebalance.")
    info, loaded = locate(directory, dsn)
    coordinator = loaded.topology.coordinator.address if loaded and loaded.topology.coordinator else None
    worker = NodeAddress(host, port)
    hint = _growing_hint(loaded, host)

    async def run(progress: screen.Progress) -> tuple[NodeResult, RebalanceStatus | None]:
        started = time.monotonic()
        async with await nodes.reach_coordinator(info, progress.emit, timeout_s=timeout) as conn:
            left_s = max(1.0, timeout - (time.monotonic() - started))
            try:
                result = await nodes.add_worker(
                    conn, coordinator, worker, progress.emit, timeout_s=left_s, trust_functions=trust_functions
                )
            except WorkerUnreachableError as error:
                raise (
                    WorkerUnreachableError(error.message, hint=hint, details=error.details) if hint else error
                ) from None
            if not start_rebalance:
                return result, None
            options = RebalanceOptions(trust_functions=trust_functions)
            return result, await _start_and_show(conn, options, progress, wait=wait)

    with following() as progress:
        root = loaded.root if loaded else None
        result, moved = recorded(root, "add-worker", lambda: asyncio.run(run(progress)))
    if format_ is Format.JSON:
        screen.print_json({"node": result.as_dict(), "rebalance": moved.as_dict() if moved else None})
        return
    words = {Outcome.ADDED: "registered", Outcome.ACTIVATED: "activated again", Outcome.ALREADY: "registered already"}
    screen.out.print(f"{escape(str(worker))} is {words.get(result.outcome, result.outcome.value)}.")
    if moved and not wait:
        cluster.print_rebalance(moved)
    if not start_rebalance and result.outcome is Outcome.ADDED:
        screen.out.print("It holds no shards of existing tables until a rebalance: citus-cluster rebalance start")


def _growing_hint(loaded: Directory | None, host: str) -> str | None:
    """The next worker of this directory is made by the set-up, not by registering a name."""
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
        f"{host} does not run here yet. This makes, starts and registers it: "
        f"python setup_citus_cluster.py --workers={count} --yes --up"
    )


async def _start_and_show(
    conn: Connection, options: RebalanceOptions, progress: screen.Progress, *, wait: bool
) -> RebalanceStatus | None:
    # Running the command again is how it resumes: a rebalance that runs already is followed first.
    if wait:
        await rebalance.wait_for_running(conn, progress.emit)
    job_id = await rebalance.start(conn, options, progress.emit)
    if job_id is None:
        return None
    if wait:
        return await rebalance_watch.wait(conn, progress.emit, job_id=job_id)
    found = await rebalance_watch.status(conn, job_id)
    screen.err.print(f"It continues in the background; watch it with: {_FOLLOW}")
    return found


def rebalance_plan(
    strategy: StrategyOption = None,
    drain_only: DrainOnlyOption = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show which shards a rebalance would move, and the bytes of each node before and after."""
    choose_format(format_)
    options = RebalanceOptions(strategy=strategy, drain_only=drain_only)

    async def work(conn: Connection) -> tuple[RebalancePlan, tuple[str, ...]]:
        preview = await rebalance.plan(conn, options)
        return preview, await rebalance.warnings(conn, preview)

    found, warnings = _on_coordinator(directory, dsn, None, work)
    if format_ is Format.JSON:
        screen.print_json({**found.as_dict(), "warnings": list(warnings)})
    else:
        cluster.print_rebalance_plan(found)
        screen.print_warnings(warnings)


def rebalance_start(
    strategy: StrategyOption = None,
    mode: ModeOption = TransferMode.AUTO,
    drain_only: DrainOnlyOption = False,
    parallel_reference: ReferenceOption = False,
    parallel_colocated: ColocatedOption = False,
    trust_functions: TrustOption = False,
    wait: Annotated[bool, option("--wait", help="Stay until it is done.")] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Start a rebalance. It continues when this command has ended."""
    choose_format(format_)
    options = RebalanceOptions(
        strategy=strategy,
        mode=mode,
        drain_only=drain_only,
        parallel_transfer_reference_tables=parallel_reference,
        parallel_transfer_colocated_shards=parallel_colocated,
        trust_functions=trust_functions,
    )
    with following() as progress:
        found = _on_coordinator(
            directory, dsn, "rebalance-start", lambda conn: _start_and_show(conn, options, progress, wait=wait)
        )
    if format_ is Format.JSON:
        screen.print_json({"rebalance": found.as_dict() if found else None})
    elif found and not wait:
        cluster.print_rebalance(found)


def rebalance_status(
    dsn: DsnOption = None, directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT
) -> None:
    """Show the running or the last rebalance: progress, rate, time left, and what is in its way."""
    choose_format(format_)
    _print_status(_on_coordinator(directory, dsn, None, rebalance_watch.status), format_)


def rebalance_stop(
    dsn: DsnOption = None, directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT
) -> None:
    """Stop the running rebalance; shards that were moved stay where they are."""
    choose_format(format_)
    _print_status(_on_coordinator(directory, dsn, "rebalance-stop", rebalance.stop), format_)


def _print_status(found: RebalanceStatus, format_: Format) -> None:
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    else:
        cluster.print_rebalance(found)


def rebalance_wait(
    dsn: DsnOption = None, directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT
) -> None:
    """Show the progress of the running rebalance until it is done. Ctrl-C leaves it running."""
    choose_format(format_)

    with following() as progress:
        found = _on_coordinator(directory, dsn, None, lambda conn: rebalance_watch.wait(conn, progress.emit))
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    elif found.state is JobState.NONE:
        screen.out.print("No rebalance has run yet.")


def add_commands(app: typer.Typer, new: Callable[..., typer.Typer]) -> typer.Typer:
    """Add every command of this module to the program; give the group of the nodes, which has more of them."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)
    app.command("add-worker")(add_worker)
    of_nodes = new(no_args_is_help=True, help="Register workers, drain them, and remove them.")
    of_nodes.command("add")(add_worker)
    app.add_typer(of_nodes, name="nodes")
    of_rebalance = new(no_args_is_help=True, help="Move shards so that every node has its share.")
    of_rebalance.command("plan")(rebalance_plan)
    of_rebalance.command("start")(rebalance_start)
    of_rebalance.command("status")(rebalance_status)
    of_rebalance.command("stop")(rebalance_stop)
    of_rebalance.command("wait")(rebalance_wait)
    app.add_typer(of_rebalance, name="rebalance")
    return of_nodes
