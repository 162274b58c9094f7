"""The commands ``up`` and ``down``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from citus_cluster.cli.options import (
    DirectoryOption,
    Format,
    FormatOption,
    Invocation,
    ShowSecretsOption,
    TimeoutOption,
    invocation_of,
    option,
)
from citus_cluster.entry import importing


def start(
    invocation: Invocation,
    root: Path,
    *,
    timeout_s: float,
    show_secrets: bool,
    show: bool,
    upgrade_citus: bool = False,
) -> dict[str, Any]:
    """Start, register and verify the cluster in ``root``, and print how to connect.

    ``upgrade_citus`` confirms the update of Citus' extension, which requires a backup.
    """
    with importing():
        import asyncio

        from citus_cluster.console import cluster, screen
        from citus_cluster.operations.directory import Directory
        from citus_cluster.operations.journaled import of_command
        from citus_cluster.operations.start import use_cases
        from citus_cluster.operations.start.up import UpResult

    def agree(question: str) -> bool:
        return upgrade_citus or (show and screen.interactive() and screen.confirm(question))

    def show_citus(directory: Directory, result: UpResult) -> None:
        if show and directory.topology.nodes:
            cluster.print_block(result, root, show_secrets=show_secrets)

    with screen.Progress() as progress:
        work = use_cases.start(
            root,
            of_command(root, invocation.redacted),
            progress.emit,
            timeout_s=timeout_s,
            on_citus=show_citus,
            agree=agree,
            upgrade_citus=upgrade_citus,
        )
        result = asyncio.run(work)
    if show:
        cluster.print_companions_block(result, root)
    return result.as_dict(show_secrets=show_secrets)


def up(
    context: typer.Context,
    directory: DirectoryOption = Path(),
    timeout: TimeoutOption = 300,
    upgrade_citus: Annotated[
        bool,
        option(
            "--upgrade-citus",
            help="Agree to update Citus' extension to the image's newer Citus. You cannot undo this: make a backup "
            "first.",
        ),
    ] = False,
    show_secrets: ShowSecretsOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Start all services, register the workers, and verify the cluster with a distributed write."""
    result = start(
        invocation_of(context),
        directory.absolute(),
        timeout_s=timeout,
        show_secrets=show_secrets,
        show=format_ is Format.TEXT,
        upgrade_citus=upgrade_citus,
    )
    if format_ is Format.JSON:
        from citus_cluster.console import screen

        screen.print_json(result)


def down(
    context: typer.Context,
    directory: DirectoryOption = Path(),
    volumes: Annotated[bool, typer.Option("--volumes", help="Also remove the volumes. All data are lost.")] = False,
    confirm: Annotated[
        str | None,
        typer.Option(
            "--confirm", help="Name of the cluster, to confirm --volumes without a question.", show_default=False
        ),
    ] = None,
) -> None:
    """Stop and remove the containers. The data stay in their volumes unless you set --volumes."""
    with importing():
        import asyncio

        from citus_cluster.cli.acting import journal_of
        from citus_cluster.console import screen
        from citus_cluster.operations.start import use_cases

    def confirmed(name: str) -> str | None:
        if confirm is None and screen.interactive():
            return screen.ask(f"All data of the cluster will be lost. Type its name ({name}) to continue")
        return confirm

    root = directory.absolute()
    with screen.Progress() as progress:
        work = use_cases.take_down(root, journal_of(context, root), progress.emit, volumes=volumes, confirm=confirmed)
        asyncio.run(work)
