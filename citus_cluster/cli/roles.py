"""The commands ``roles``: make, list, change and drop ordinary roles."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, TypeVar

import typer

from citus_cluster.cli.cluster import DsnOption, connected, locate, recorded
from citus_cluster.cli.options import (
    DirectoryOption,
    Format,
    FormatOption,
    ShowSecretsOption,
    choose_format,
    option,
)
from citus_cluster.console import screen
from citus_cluster.console.screen import escape
from citus_cluster.errors import ExitStatus
from citus_cluster.model.handover import Handover
from citus_cluster.model.role_limits import Limit, in_words
from citus_cluster.model.roles import Access, RoleStatus
from citus_cluster.operations import role_drop, roles
from citus_cluster.operations.role_passwords import Home
from citus_cluster.operations.roles import RoleList, RoleResult
from citus_cluster.runtime import files, secrets
from citus_cluster.runtime.postgres import Connection

T = TypeVar("T")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the role.", show_default=False)]
# A variable of its own: the one of a set-up's --password-file holds the superuser's.
PasswordFileOption = Annotated[
    Path | None,
    option("--password-file", help="File that holds the role's password.", variable="ROLE_PASSWORD_FILE"),
]


def create(
    name: NameArgument,
    access: Annotated[
        Access | None,
        option(
            "--access",
            help="What it may do with tables: read them; write (and read) them; create some of its own, too.",
            variable="ROLE_ACCESS",
            show_default="as it was; at first write",
        ),
    ] = None,
    schema: Annotated[
        list[str] | None,
        option(
            "--schema",
            help="A schema that it may use; give it again for another. Schemas that it has stay.",
            variable="ROLE_SCHEMA",
            show_default="at first public",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        option(
            "--limit",
            help="NAME=VALUE, again for another: connections (on the coordinator), statement_timeout, temp_file_limit; "
            "VALUE may be none or default.",
            variable="ROLE_LIMIT",
            show_default="as they were; at first protective values, none for connections",
        ),
    ] = None,
    password_file: PasswordFileOption = None,
    show_secrets: ShowSecretsOption = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Make an ordinary role that works on every node; run again, it repairs what the role lacks."""
    choose_format(format_)
    given = secrets.read_password_file(password_file) if password_file else None
    with _at_work(directory, dsn) as (home, progress):
        act = partial(roles.create, access=access, schemas=schema, limits=limit or (), given=given)
        made = _recorded(home, "roles-create", lambda conn: act(conn, home, name, progress.emit))
    _print_result(made, home, format_, show_secrets=show_secrets)


def password(
    name: NameArgument,
    password_file: PasswordFileOption = None,
    show_secrets: ShowSecretsOption = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Give a role another password on every node: a random one, unless --password-file names it."""
    choose_format(format_)
    given = secrets.read_password_file(password_file) if password_file else None
    with _at_work(directory, dsn) as (home, progress):
        act = partial(roles.set_password, given=given)
        made = _recorded(home, "roles-password", lambda conn: act(conn, home, name, progress.emit))
    _print_result(made, home, format_, show_secrets=show_secrets)


def list_roles(dsn: DsnOption = None, directory: DirectoryOption = Path(), format_: FormatOption = Format.TEXT) -> None:
    """Show the roles that may log in: what each may do, and on which nodes its credentials are missing."""
    choose_format(format_)
    info, loaded = locate(directory, dsn)
    home = Home(info, loaded.root if loaded else None)
    found = asyncio.run(_on(home, lambda conn: roles.list_roles(conn, home)))
    if format_ is Format.JSON:
        screen.print_json(found.as_dict())
    else:
        _print_list(found, home.root)


def drop(
    name: NameArgument,
    reassign: Annotated[
        bool,
        option(
            "--reassign",
            help="First give what it owns to roles that own such leftovers and nothing else (owner_of_SCHEMA).",
            variable="ROLE_REASSIGN",
        ),
    ] = False,
    also: Annotated[
        list[str] | None,
        option(
            "--reassign-also",
            help="Give this object too, which may do more with another owner, such as 'view public.totals'; give it "
            "again for another. Refusals and --dry-run list them.",
            variable="ROLE_REASSIGN_ALSO",
        ),
    ] = None,
    disconnect: Annotated[
        bool, option("--disconnect", help="End its sessions first.", variable="ROLE_DISCONNECT")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show who would get what it owns; change nothing; exit 4 if it owns something."),
    ] = False,
    dsn: DsnOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Drop a role with its privileges, its credentials on every node, and its password. Tables stay."""
    choose_format(format_)
    if dry_run:
        _show_reassignment(name, also or (), directory, dsn, format_)
    with _at_work(directory, dsn) as (home, progress):
        act = partial(role_drop.drop, reassign=reassign or bool(also), named=also or (), disconnect=disconnect)
        changed = _recorded(home, "roles-drop", lambda conn: act(conn, home, name, progress.emit))
    if format_ is Format.JSON:
        screen.print_json({"role": name, "changed": list(changed)})
    else:
        screen.out.print(f"Role {escape(name)} is gone." if changed else f"There is no role {escape(name)}.")


def _show_reassignment(name: str, named: Sequence[str], directory: Path, dsn: str | None, format_: Format) -> None:
    info, loaded = locate(directory, dsn)
    home = Home(info, loaded.root if loaded else None)
    handover: Handover | None = asyncio.run(_on(home, lambda conn: role_drop.plan_reassignment(conn, home, name)))
    if format_ is Format.JSON:
        screen.print_json({"role": name, "objects": handover.as_list(named) if handover else []})
    elif handover is None:
        screen.out.print(f"Role {escape(name)} owns nothing.")
    else:
        rows = [(one.name, heir, one.reason or "-") for one, heir in handover.heirs.items()]
        screen.out.print(screen.table(f"What {name} owns", ("object", "goes to", "must be named, since it"), rows))
        if any(one.home and one.power for one in handover.heirs):
            screen.err.print(
                "A view or function that is given away loses what only its old owner was allowed to read or do: the "
                "new owner may use what it owns itself, and nothing else."
            )
    raise typer.Exit(ExitStatus.WOULD_CHANGE if handover else ExitStatus.DONE)


@contextmanager
def _at_work(directory: Path, dsn: str | None) -> Iterator[tuple[Home, screen.Progress]]:
    info, loaded = locate(directory, dsn)
    with files.locked(loaded.root) if loaded else nullcontext(), screen.Progress() as progress:
        yield Home(info, loaded.root if loaded else None), progress


async def _on(home: Home, work: Callable[[Connection], Awaitable[T]]) -> T:
    async with connected(home.coordinator) as conn:
        return await work(conn)


def _recorded(home: Home, operation: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    return recorded(home.root, operation, lambda: asyncio.run(_on(home, work)))


_MAY = {
    Access.READ: "may read the tables",
    Access.WRITE: "may read and write the tables",
    Access.CREATE: "may read and write the tables, and make its own,",
}


def _print_result(made: RoleResult, home: Home, format_: Format, *, show_secrets: bool) -> None:
    if format_ is Format.JSON:
        screen.print_json(made.as_dict(show_secrets=show_secrets))
        return
    record, where = made.record, made.connection
    schemas = f"schema{'s' if len(record.schemas) > 1 else ''} {', '.join(record.schemas)}"
    screen.out.print(f"[bold]Role {escape(record.name)}[/] {_MAY[record.access]} in {escape(schemas)}.")
    if made.limits is not None:
        limits = in_words({Limit(name): value for name, value in made.limits.items()})
        screen.out.print(f"  Limits: {escape(limits)}")
    if home.root and made.password_file:
        folder = "" if home.root == Path.cwd() else f"{home.root}/"
        command = (
            f'PGPASSWORD="$(cat {quote(folder + made.password_file)})" psql -h {quote(where.host)} -p {where.port} '
            f"-U {quote(where.user)} -d {quote(where.database)}"
        )
        screen.out.print(f"  psql  {escape(command)}")
    screen.out.print(f"  DSN   {escape(where.dsn(masked=not show_secrets))}")


def _access(one: RoleStatus) -> str:
    if one.record:
        return one.record.access
    return "owns what dropped roles left" if one.owner_of else "made by SQL"


def _print_list(found: RoleList, root: Path | None) -> None:
    if found.roles:
        rows = [
            (
                one.name,
                _access(one),
                ", ".join(one.record.schemas) if one.record else one.owner_of or "-",
                in_words({Limit(name): value for name, value in one.limits.items()}) if one.limits else "-",
                one.password_file or "-",
                "; ".join(one.problems) or "ok",
            )
            for one in found.roles
        ]
        screen.out.print(screen.table("Roles", ("role", "access", "schemas", "limits", "password", "state"), rows))
    else:
        screen.out.print("There is no role but the superuser. One is made by: citus-cluster roles create NAME")
    for reason in found.silent:
        screen.out.print(f"[yellow]![/] {escape(reason)}")
    if any(one.problems and one.record for one in found.roles):
        command = "citus-cluster roles create NAME"
        screen.err.print(f"To repair a role: {escape(screen.pasteable(command, root) if root else command)}")


def add_commands(app: typer.Typer, new: Callable[..., typer.Typer]) -> None:
    """Add the commands of this module to the program."""
    of_roles = new(no_args_is_help=True, help="Make and list ordinary roles, give them passwords, and drop them.")
    of_roles.command("create")(create)
    of_roles.command("list")(list_roles)
    of_roles.command("password")(password)
    of_roles.command("drop")(drop)
    app.add_typer(of_roles, name="roles")
