"""The commands ``psql`` and ``logs``, which give the terminal to another program."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from citus_cluster.cli import completion as complete
from citus_cluster.cli.options import DirectoryOption
from citus_cluster.entry import INTERRUPTED, importing


def psql(
    node: Annotated[
        str | None,
        typer.Argument(
            metavar="[NODE]",
            help="Service name of the server.",
            show_default="the coordinator",
            autocompletion=complete.servers,
        ),
    ] = None,
    statements: Annotated[
        list[str] | None,
        typer.Option("--command", "-c", metavar="SQL", help="Run a statement and exit; repeat the option for more."),
    ] = None,
    directory: DirectoryOption = Path(),
) -> None:
    """Open psql as the superuser in the container of a node or a PostgreSQL 14 server; needs no password.

    Without a terminal, it runs the statements from standard input. The exit status is that of psql.
    """
    with importing():
        from citus_cluster.operations import containers
        from citus_cluster.operations.directory import load
        from citus_cluster.runtime.docker.compose import become

    loaded = load(directory.absolute())
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    become(containers.psql_argv(loaded, node, statements or (), terminal=terminal))


def logs(
    services: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SERVICE]...", help="Services.", show_default="all", autocompletion=complete.services),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow new output until Ctrl-C.")] = False,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail",
            "-n",
            metavar="NUMBER",
            help="Number of lines to show from the end of each log.",
            min=0,
            show_default="all",
        ),
    ] = None,
    directory: DirectoryOption = Path(),
) -> None:
    """Print the logs of services, including stopped ones.

    On a terminal, the JSON lines of the admin API are shown as plain text.
    """
    with importing():
        from citus_cluster.console import screen
        from citus_cluster.model.log_records import readable
        from citus_cluster.operations import containers
        from citus_cluster.operations.directory import load
        from citus_cluster.operations.start.preflight import compose_of

    loaded = load(directory.absolute())
    arguments = containers.logs_arguments(loaded, services or (), follow=follow, tail=tail)
    if not sys.stdout.isatty():
        compose_of(loaded).become(*arguments)
    try:
        # Print them with our own screen: a client can write control sequences into a log.
        for line in compose_of(loaded).read_lines(*arguments):
            screen.out.print(readable(line), markup=False)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
