"""Printing roles: what each may do, how it connects, what it owns."""

from pathlib import Path
from shlex import quote

from citus_cluster.console.screen import err, escape, out, pasteable, table
from citus_cluster.model.citus.handover import Handover
from citus_cluster.model.citus.role_limits import Limit, in_words
from citus_cluster.model.citus.roles import Access, RoleStatus
from citus_cluster.operations.roles.accounts import RoleList, RoleResult
from citus_cluster.operations.roles.passwords import CredentialStore

_MAY = {
    Access.READ: "may read the tables",
    Access.WRITE: "may read and write the tables",
    Access.CREATE: "may read and write the tables, and make its own,",
}


def print_result(made: RoleResult, credentials: CredentialStore, *, show_secrets: bool) -> None:
    """Print what a role may do, and how it connects."""
    record, where = made.record, made.connection
    schemas = f"schema{'s' if len(record.schemas) > 1 else ''} {', '.join(record.schemas)}"
    out.print(f"[bold]Role {escape(record.name)}[/] {_MAY[record.access]} in {escape(schemas)}.")
    if made.limits is not None:
        limits = in_words({Limit(name): value for name, value in made.limits.items()})
        out.print(f"  Limits: {escape(limits)}")
    if credentials.root and made.password_file:
        folder = "" if credentials.root == Path.cwd() else f"{credentials.root}/"
        command = (
            f'PGPASSWORD="$(cat {quote(folder + made.password_file)})" psql -h {quote(where.host)} -p {where.port} '
            f"-U {quote(where.user)} -d {quote(where.database)}"
        )
        out.print(f"  psql  {escape(command)}")
    out.print(f"  DSN   {escape(where.dsn(masked=not show_secrets))}")


def _access(one: RoleStatus) -> str:
    if one.record:
        return one.record.access
    return "owns what dropped roles left" if one.owner_of else "made by SQL"


def print_list(found: RoleList, root: Path | None) -> None:
    """Print the roles, and what is wrong with them."""
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
        out.print(table("Roles", ("role", "access", "schemas", "limits", "password", "state"), rows))
    else:
        out.print("No roles exist besides the superuser. Create one: citus-cluster roles create NAME")
    for reason in found.silent:
        out.print(f"[yellow]![/] {escape(reason)}")
    if any(one.problems and one.record for one in found.roles):
        command = "citus-cluster roles create NAME"
        err.print(f"To repair a role: {escape(pasteable(command, root) if root else command)}")


def print_dropped(name: str, *, changed: bool) -> None:
    out.print(f"Role {escape(name)} is gone." if changed else f"There is no role {escape(name)}.")


def print_handover(name: str, handover: Handover | None) -> None:
    """Print who would get what a role owns."""
    if handover is None:
        out.print(f"Role {escape(name)} owns nothing.")
        return
    rows = [(one.name, new_owner, one.reason or "-") for one, new_owner in handover.new_owners.items()]
    out.print(table(f"What {name} owns", ("object", "goes to", "must be named, since it"), rows))
    if any(one.home and one.power for one in handover.new_owners):
        err.print(
            "A view or function that is given away loses what only its old owner was allowed to read or do: the "
            "new owner may use what it owns itself, and nothing else."
        )
