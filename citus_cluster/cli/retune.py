"""The command ``retune``: divide the memory again among all services."""

from pathlib import Path
from typing import Annotated, Any

import typer

from citus_cluster.cli.options import (
    DirectoryOption,
    Format,
    FormatOption,
    ShowSecretsOption,
    TimeoutOption,
    invocation_of,
    option,
)
from citus_cluster.cli.start import start
from citus_cluster.entry import importing


def retune(
    context: typer.Context,
    directory: DirectoryOption = Path(),
    yes: Annotated[bool, option("--yes", help="Agree to the changes that are shown.", variable="RETUNE_YES")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; write nothing; exit 4 if something would change.")
    ] = False,
    up: Annotated[
        bool, typer.Option("--up", help="Restart the services and verify the cluster after writing.")
    ] = False,
    timeout: TimeoutOption = 300,
    show_secrets: ShowSecretsOption = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Divide the memory again among all services. The plan names the services that the next up restarts."""
    with importing():
        from citus_cluster.cli.writing import show_dry_run, write
        from citus_cluster.console import screen
        from citus_cluster.operations.directory import load
        from citus_cluster.operations.setup.request import SetupRequest

    root = directory.absolute()
    load(root)  # refuses a directory without a cluster, which only setup creates
    request = SetupRequest(root=root, retune=True)
    if dry_run:
        show_dry_run(request, format_)
    shown = format_ is Format.TEXT
    plan = write(invocation_of(context), request, ask=not yes, consent=yes, show=shown)
    result: dict[str, Any] = {"setup": plan.as_dict()}
    if up:
        result["up"] = start(invocation_of(context), root, timeout_s=timeout, show_secrets=show_secrets, show=shown)
    elif shown and plan.restarts:
        command = screen.escape(screen.pasteable("citus-cluster up", root))
        screen.out.print(f"Next:\n  {command}   # restarts {', '.join(plan.restarts)}")
    if not shown:
        screen.print_json(result)
