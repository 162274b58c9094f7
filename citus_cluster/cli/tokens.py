"""The commands ``tokens``: create, list and revoke tokens of the admin API."""

from pathlib import Path
from typing import Annotated

import typer

from citus_cluster.cli import completion as complete
from citus_cluster.cli.options import DirectoryOption, Format, FormatOption, option
from citus_cluster.entry import importing
from citus_cluster.model.token_role import DEFAULT_LIFETIME, Role

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the token.", show_default=False, autocompletion=complete.tokens)
]


def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new token.", show_default=False)],
    role: Annotated[
        Role,
        option("--role", help="What it allows: only reading, or also changing the cluster.", variable="TOKEN_ROLE"),
    ] = Role.READ,
    expires: Annotated[
        str,
        option(
            "--expires",
            help="How long it is valid: a number and a unit (m, h, d, w), or 'never'.",
            variable="TOKEN_EXPIRES",
        ),
    ] = DEFAULT_LIFETIME,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Create a token for the admin API, and print it. It is shown only once; only its hash is kept."""
    with importing():
        from citus_cluster.cli.acting import journal_of
        from citus_cluster.console import screen
        from citus_cluster.console import tokens as shown
        from citus_cluster.operations import tokens
        from citus_cluster.operations.directory import load

    loaded = load(directory.absolute())
    journal = journal_of(context, loaded.root)
    made = tokens.create(loaded, journal, name, role=role, expires=expires)
    if format_ is Format.JSON:
        screen.print_json(made.as_dict())
    else:
        shown.print_created(made)


def list_tokens(directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT) -> None:
    """List the tokens of the admin API with their roles and expiry times."""
    with importing():
        from citus_cluster.console import screen
        from citus_cluster.console import tokens as shown
        from citus_cluster.operations import tokens
        from citus_cluster.operations.directory import load

    found = tokens.list_tokens(load(directory.absolute()))
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    else:
        shown.print_list(found)


def revoke(
    context: typer.Context,
    name: NameArgument,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Revoke a token of the admin API. It is refused from then on."""
    with importing():
        from citus_cluster.cli.acting import journal_of
        from citus_cluster.console import screen
        from citus_cluster.console import tokens as shown
        from citus_cluster.operations import tokens
        from citus_cluster.operations.directory import load

    loaded = load(directory.absolute())
    revoked = tokens.revoke(loaded, journal_of(context, loaded.root), name)
    if format_ is Format.JSON:
        screen.print_json(revoked.as_dict())
    else:
        shown.print_revoked(revoked)
