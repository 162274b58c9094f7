"""Passwords of ordinary roles: where they are kept, and which one is correct, which is always tested on the server."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from citus_cluster.errors import AuthenticationError, ImmutableError, RoleError, UsageError
from citus_cluster.model.plan.changes import WantedFile
from citus_cluster.runtime.citus import roles as citus_roles
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect
from citus_cluster.runtime.store import secrets
from citus_cluster.runtime.store.files import keep_file, read_file

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class CredentialStore:
    """A cluster's coordinator, and the place of the passwords of its roles: nowhere without ``root``.

    ``shown``: whoever requests a change sees a random password once, so it may be kept nowhere.
    """

    coordinator: ConnectionInfo
    root: Path | None
    shown: bool = False

    def saved(self, role: str) -> str | None:
        return secrets.saved(self.root, secrets.role_password(role)) if self.root else None

    def password_file(self, role: str) -> str | None:
        """Return the path below ``root`` of a role's password, if it exists."""
        path = secrets.role_password(role)
        return path if self.root and read_file(self.root, path) else None

    def keep(self, role: str, password: str) -> bool:
        """Keep a password. Returns whether a file was written."""
        if self.root is None:
            return False
        path = secrets.role_password(role)
        wanted = WantedFile(password.encode(), secrets.role_mode(path))
        found = read_file(self.root, path)
        if found and found.mode == wanted.mode and self.saved(role) == password:
            return False
        keep_file(self.root, path, wanted)
        return True

    def connection(self, role: str, password: str) -> ConnectionInfo:
        return replace(self.coordinator, user=role, password=password)


def new_password(credentials: CredentialStore) -> str:
    if credentials.root is None and not credentials.shown:
        raise UsageError(
            "A random password cannot be kept without the cluster's directory.",
            hint="Give a password with --password-file, run the command in the coordinator's directory, or, in the "
            "API, ask for it to be shown once (show_password).",
        )
    return secrets.generate()


def first_password(credentials: CredentialStore, name: str, given: str | None) -> str:
    return given or credentials.saved(name) or new_password(credentials)


async def opens(info: ConnectionInfo) -> bool:
    try:
        await (await connect(info, timeout_s=CONNECT_TIMEOUT_S)).close()
    except AuthenticationError:
        return False
    return True


async def right_password(conn: Connection, credentials: CredentialStore, name: str, given: str | None) -> str:
    """Find the password of the role: the given one, the one kept here, or the one in the coordinator's own row."""
    if given is not None:
        if await opens(credentials.connection(name, given)):
            return given
        raise ImmutableError(
            f"Role {name!r} exists, and the given password is not its password; the role was not changed.",
            hint=f"Omit --password-file to keep the password. To change it: citus-cluster roles password {name}",
        )
    for candidate in dict.fromkeys([credentials.saved(name), await citus_roles.kept_password(conn, name)]):
        if candidate and await opens(credentials.connection(name, candidate)):
            return candidate
    raise RoleError(
        f"The password of role {name!r} is unknown here: it was changed, or its file was lost.",
        hint="Give it with --password-file, or set another one and distribute it to the role's users: "
        f"citus-cluster roles password {name}",
    )


async def keep_password(
    conn: Connection, credentials: CredentialStore, name: str, password: str, report: Callable[[str], None]
) -> None:
    if await citus_roles.kept_password(conn, name) != password:
        await citus_roles.keep_row(conn, name, password)
        report(f"credentials of role {name} renewed on the coordinator")
    if credentials.keep(name, password):
        report(f"password kept in {secrets.role_password(name)}")
