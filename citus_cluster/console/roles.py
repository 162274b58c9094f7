"""Printing roles: their access, connections, and objects."""

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
    Access.CREATE: "may read and write tables, and create its own,",
}


def print_result(made: RoleResult, credentials: CredentialStore, *, show_secrets: bool) -> None:
    """Print the access of a role, and how to connect."""
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
    return "owns objects of dropped roles" if one.owner_of else "created by SQL"


def print_list(found: RoleList, root: Path | None) -> None:
    """Print the roles, and their problems."""
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
    out.print(f"Role {escape(name)} was dropped." if changed else f"Role {escape(name)} does not exist.")


def print_handover(name: str, handover: Handover | None) -> None:
    """Print who would get the objects of a role."""
    if handover is None:
        out.print(f"Role {escape(name)} owns nothing.")
        return
    rows = [(one.name, new_owner, one.reason or "-") for one, new_owner in handover.new_owners.items()]
    out.print(table(f"Objects of {name}", ("object", "new owner", "must be named, because it"), rows))
    if any(one.home and one.power for one in handover.new_owners):
        err.print(
            "A reassigned view or function loses the privileges of its old owner: the new owner may use its "
            "own objects, and nothing else."
        )
