"""The commands ``up`` and ``down``."""

from functools import partial
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
from citus_cluster.errors import UsageError


def start(
    invocation: Invocation,
    root: Path,
    *,
    timeout_s: float,
    show_secrets: bool,
    show: bool,
    upgrade_citus: bool = False,
) -> dict[str, Any]:
    """Start, register and verify the cluster in ``root``, and print what to paste.

    ``upgrade_citus`` agrees to the update of Citus' extension, for which there must be a backup.
    """
    with importing():
        import asyncio

        from citus_cluster.cli.acting import recorded
        from citus_cluster.console import cluster, screen
        from citus_cluster.operations.directory import load
        from citus_cluster.operations.start.up import UpResult
        from citus_cluster.operations.start.up import up as start_cluster
        from citus_cluster.runtime.store import files

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
        result = recorded(invocation, root, "up", lambda: asyncio.run(work()))
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
            help="Agree to update Citus' extension to the image's newer Citus. It cannot be undone: back up first.",
        ),
    ] = False,
    show_secrets: ShowSecretsOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Start everything, register the workers, and verify with a real distributed write."""
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
    volumes: Annotated[bool, typer.Option("--volumes", help="Also remove the volumes: all data is lost.")] = False,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", help="The cluster's name, for --volumes without a question.", show_default=False),
    ] = None,
) -> None:
    """Stop and remove the containers. The data stays in its volumes, unless --volumes."""
    with importing():
        import asyncio

        from citus_cluster.cli.acting import recorded
        from citus_cluster.console import screen
        from citus_cluster.operations.directory import load
        from citus_cluster.operations.start.down import down as stop_cluster
        from citus_cluster.runtime.store import files

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
        recorded(
            invocation_of(context),
            loaded.root,
            "down",
            lambda: asyncio.run(stop_cluster(loaded, progress.emit, volumes=volumes)),
        )
