"""The commands ``roles``: create, list, change and drop ordinary roles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from citus_cluster.cli import completion as complete
from citus_cluster.cli.options import (
    DirectoryOption,
    DsnOption,
    Format,
    FormatOption,
    option,
)
from citus_cluster.entry import importing
from citus_cluster.errors import ExitStatus
from citus_cluster.model.citus.roles import Access

if TYPE_CHECKING:
    from citus_cluster.operations.coordinator import OnCoordinator
    from citus_cluster.operations.journaled import Journal
    from citus_cluster.operations.roles.accounts import RoleResult
    from citus_cluster.operations.roles.passwords import CredentialStore

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the role.", show_default=False, autocompletion=complete.roles)
]
# It has its own variable, because that of the set-up's --password-file is for the superuser.
PasswordFileOption = Annotated[
    Path | None,
    option("--password-file", help="File that holds the role's password.", variable="ROLE_PASSWORD_FILE"),
]
ShowPasswordOption = Annotated[
    bool,
    option("--show-secrets", "--show-password", help="Print passwords instead of masking them."),
]


def create(
    context: typer.Context,
    name: NameArgument,
    access: Annotated[
        Access | None,
        option(
            "--access",
            help="Access to tables: read them; also write them; also create its own.",
            variable="ROLE_ACCESS",
            show_default="unchanged; write for a new role",
        ),
    ] = None,
    schema: Annotated[
        list[str] | None,
        option(
            "--schema",
            help="Schema that the role may use; repeat the option for more. The role keeps its other schemas.",
            variable="ROLE_SCHEMA",
            show_default="public for a new role",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        option(
            "--limit",
            help="Limit as NAME=VALUE; repeat the option for more. Names: connections (on the coordinator), "
            "statement_timeout, temp_file_limit; VALUE may be none or default.",
            variable="ROLE_LIMIT",
            show_default="unchanged; a new role gets protective values, none for connections",
        ),
    ] = None,
    password_file: PasswordFileOption = None,
    show_secrets: ShowPasswordOption = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Create an ordinary role that works on every node. Running it again repairs the role."""
    with importing():
        import asyncio

        from citus_cluster.console import screen
        from citus_cluster.operations.roles import use_cases
        from citus_cluster.runtime.store import secrets

    given = secrets.read_password_file(password_file) if password_file else None
    on_coordinator, journal, credentials = _located(context, directory, dsn)
    with screen.Progress() as progress:
        work = use_cases.create(
            on_coordinator,
            journal,
            credentials,
            name,
            progress.emit,
            access=access,
            schemas=schema,
            limits=limit or (),
            given=given,
        )
        made = asyncio.run(work)
    _print_result(made, credentials, format_, show_secrets=show_secrets)


def password(
    context: typer.Context,
    name: NameArgument,
    password_file: PasswordFileOption = None,
    show_secrets: ShowPasswordOption = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Change the password of a role on every node. It is random unless you set --password-file."""
    with importing():
        import asyncio

        from citus_cluster.console import screen
        from citus_cluster.operations.roles import use_cases
        from citus_cluster.runtime.store import secrets

    given = secrets.read_password_file(password_file) if password_file else None
    on_coordinator, journal, credentials = _located(context, directory, dsn)
    with screen.Progress() as progress:
        work = use_cases.set_password(on_coordinator, journal, credentials, name, progress.emit, given=given)
        made = asyncio.run(work)
    _print_result(made, credentials, format_, show_secrets=show_secrets)


def list_roles(dsn: DsnOption = None, directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT) -> None:
    """List the roles that may log in, with their access, and the nodes on which credentials are missing."""
    with importing():
        from citus_cluster.cli.acting import locate, run_on
        from citus_cluster.console import roles as shown
        from citus_cluster.console import screen
        from citus_cluster.operations.roles import accounts as roles
        from citus_cluster.operations.roles.passwords import CredentialStore

    info, loaded = locate(directory, dsn)
    credentials = CredentialStore(info, loaded.root if loaded else None)
    found = run_on(info, lambda conn: roles.list_roles(conn, credentials))
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    else:
        shown.print_list(found, credentials.root)


def drop(
    context: typer.Context,
    name: NameArgument,
    reassign: Annotated[
        bool,
        option(
            "--reassign",
            help="First give its objects to roles that own only objects of dropped roles (owner_of_SCHEMA).",
            variable="ROLE_REASSIGN",
        ),
    ] = False,
    also: Annotated[
        list[str] | None,
        option(
            "--reassign-also",
            help="Also give this object, which may behave differently with another owner, such as 'view "
            "public.totals'; repeat the option for more. --dry-run and the error list these objects.",
            variable="ROLE_REASSIGN_ALSO",
        ),
    ] = None,
    disconnect: Annotated[
        bool, option("--disconnect", help="End the role's sessions first.", variable="ROLE_DISCONNECT")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show who would get its objects; change nothing; exit 4 if it owns any."),
    ] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Drop a role with its privileges, its credentials on every node, and its password file. Tables stay."""
    with importing():
        import asyncio

        from citus_cluster.console import roles as shown
        from citus_cluster.console import screen
        from citus_cluster.operations.roles import use_cases

    if dry_run:
        _show_reassignment(name, also or (), directory, dsn, format_)
    on_coordinator, journal, credentials = _located(context, directory, dsn)
    with screen.Progress() as progress:
        work = use_cases.drop(
            on_coordinator,
            journal,
            credentials,
            name,
            progress.emit,
            reassign=reassign or bool(also),
            named=also or (),
            disconnect=disconnect,
        )
        changed = asyncio.run(work)
    if format_ is Format.JSON:
        screen.print_json({"role": name, "changed": list(changed)})
    else:
        shown.print_dropped(name, changed=bool(changed))


def _show_reassignment(name: str, named: Sequence[str], directory: Path, dsn: str | None, format_: Format) -> None:
    from citus_cluster.cli.acting import locate, run_on
    from citus_cluster.console import roles as shown
    from citus_cluster.console import screen
    from citus_cluster.operations.roles import drop as role_drop
    from citus_cluster.operations.roles.passwords import CredentialStore

    info, loaded = locate(directory, dsn)
    credentials = CredentialStore(info, loaded.root if loaded else None)
    handover = run_on(info, lambda conn: role_drop.plan_reassignment(conn, credentials, name))
    if format_ is Format.JSON:
        screen.print_json({"role": name, "objects": handover.as_list(named) if handover else []})
    else:
        shown.print_handover(name, handover)
    raise typer.Exit(ExitStatus.WOULD_CHANGE if handover else ExitStatus.DONE)


def _located(
    context: typer.Context, directory: Path, dsn: str | None
) -> tuple[OnCoordinator, Journal, CredentialStore]:
    with importing():
        from citus_cluster.cli.acting import journal_of, locate
        from citus_cluster.operations.coordinator import connecting
        from citus_cluster.operations.roles.passwords import CredentialStore

    info, loaded = locate(directory, dsn)
    root = loaded.root if loaded else None
    return connecting(info), journal_of(context, root), CredentialStore(info, root)


def _print_result(made: RoleResult, credentials: CredentialStore, format_: Format, *, show_secrets: bool) -> None:
    from citus_cluster.console import roles as shown
    from citus_cluster.console import screen

    if format_ is Format.JSON:
        screen.print_json(made.as_dict(show_secrets=show_secrets))
    else:
        shown.print_result(made, credentials, show_secrets=show_secrets)
