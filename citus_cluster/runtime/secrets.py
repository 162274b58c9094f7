"""Passwords and tokens: made once, kept by every later run, in generated/secrets/ alone."""

import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from citus_cluster.errors import ImmutableError, UsageError
from citus_cluster.model.changes import WantedFile
from citus_cluster.model.names import password_problem, without_line_end
from citus_cluster.model.component_name import ComponentName
from citus_cluster.runtime.files import read_file

FOLDER = "generated/secrets"
SUPERUSER_PASSWORD = f"{FOLDER}/superuser_password"
PG14_PASSWORD = f"{FOLDER}/pg14_password"
REPLICATOR_PASSWORD = f"{FOLDER}/replicator_password"
REDIS_PASSWORD = f"{FOLDER}/redis_password"
CASSANDRA_PASSWORD = f"{FOLDER}/cassandra_password"
ADMIN_TOKEN = f"{FOLDER}/admin_api_token"
READ_TOKEN = f"{FOLDER}/admin_api_read_token"
OF_SERVICE = {
    ComponentName.PG14: (PG14_PASSWORD, REPLICATOR_PASSWORD),
    ComponentName.REDIS: (REDIS_PASSWORD,),
    ComponentName.CASSANDRA: (CASSANDRA_PASSWORD,),
    ComponentName.ADMIN_API: (ADMIN_TOKEN, READ_TOKEN),
}
"""Secrets of each service beside the superuser's password, which every directory has."""
READ_BY_API = (SUPERUSER_PASSWORD, PG14_PASSWORD, REDIS_PASSWORD, CASSANDRA_PASSWORD)
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 32  # of 62 characters: 190 bits


@dataclass(frozen=True)
class Secrets:
    """The secrets of a directory: ``values`` by path, ``files`` those that must be written."""

    values: dict[str, str] = field(repr=False)
    files: dict[str, WantedFile] = field(repr=False)

    @property
    def superuser_password(self) -> str:
        return self.values[SUPERUSER_PASSWORD]

    @property
    def tokens(self) -> dict[str, str]:
        return (
            {"admin": self.values[ADMIN_TOKEN], "read": self.values[READ_TOKEN]} if ADMIN_TOKEN in self.values else {}
        )


def role_password(name: str) -> str:
    """Path of an ordinary role's password; it is made when the role is, not by a set-up."""
    return f"{FOLDER}/roles/{name}_password"


def generate() -> str:
    """Make a random secret that needs no quoting anywhere."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def saved(root: Path, path: str) -> str | None:
    """Read one secret; at most one line end at its end, from an editor, does not count.

    Raises UsageError for what no reader takes for a password: several lines, nothing but a line end, not UTF-8.
    """
    found = read_file(root, path)
    if found is None or not found.content:
        return None
    try:
        secret = without_line_end(found.content.decode())
    except UnicodeDecodeError:
        raise UsageError(
            f"{root / path} is not UTF-8 text.", hint="Restore it from a copy: the cluster was made with what it held."
        ) from None
    if problem := password_problem(secret):
        raise UsageError(
            f"{root / path} holds no password that can be used: {problem}.",
            hint="Put the one that the cluster was made with into it, on a single line.",
        )
    return secret


def read_password_file(path: Path) -> str:
    """Read a password that the user keeps in a file; one line end at its end does not count."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"The password file {path} cannot be read: {reason}.", hint="Check the path and its permissions."
        ) from error
    return without_line_end(text)


def prepare(root: Path, *, given_password: str | None, services: Collection[ComponentName]) -> Secrets:
    """Decide on every secret that these services need; nothing is written yet, and none is ever removed.

    Raises UsageError for a password that cannot be used, ImmutableError for one unlike the saved one.
    """
    if given_password is not None and (problem := password_problem(given_password)):
        raise UsageError(f"This password cannot be used: {problem}.")
    kept = saved(root, SUPERUSER_PASSWORD)
    if kept is not None and given_password is not None and kept != given_password:
        raise ImmutableError(
            "The given password is not the one that this cluster was made with; nothing was written.",
            hint="Leave --pass away to keep the saved one. To change it: ALTER ROLE … PASSWORD on the coordinator, "
            f"update pg_dist_authinfo on every node, and write the new one into {SUPERUSER_PASSWORD}.",
        )
    values = {SUPERUSER_PASSWORD: kept or given_password or generate()}
    wanted_paths = [path for service, paths in OF_SERVICE.items() if service in services for path in paths]
    values |= {path: saved(root, path) or generate() for path in wanted_paths}
    # What a process without root reads is protected by the folder alone: the API's, Redis' and Cassandra's own.
    modes = dict.fromkeys(READ_BY_API if ComponentName.ADMIN_API in services else (REDIS_PASSWORD, CASSANDRA_PASSWORD), 0o644)
    files = {}
    for path, value in values.items():
        wanted = WantedFile(value.encode(), modes.get(path, 0o600))
        found = read_file(root, path)
        # A line end that an editor added goes, for readers of which we know nothing.
        if found is None or (found.content, found.mode) != (wanted.content, wanted.mode):
            files[path] = wanted
    return Secrets(values, files)
