"""Passwords and tokens: generated once, kept by every later run, only in generated/secrets/."""

import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from citus_cluster.errors import ImmutableError, UsageError
from citus_cluster.model.api_config import hash_token
from citus_cluster.model.component import ROLES_FOLDER
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS, admin_api, citus
from citus_cluster.model.names import password_problem, without_line_end
from citus_cluster.model.plan.changes import WantedFile
from citus_cluster.runtime.store.files import read_file

SUPERUSER_PASSWORD = citus.SUPERUSER_PASSWORD.path
ADMIN_TOKEN = admin_api.ADMIN_TOKEN.path
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 32  # of 62 characters: 190 bits


@dataclass(frozen=True)
class Secrets:
    """The secrets of a directory: ``values`` by path, and the ``files`` to write."""

    values: dict[str, str] = field(repr=False)
    files: dict[str, WantedFile] = field(repr=False)

    @property
    def superuser_password(self) -> str:
        return self.values[SUPERUSER_PASSWORD]

    @property
    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every secret, by name, in hexadecimal, which is sufficient for random secrets."""
        return {path.rpartition("/")[2]: hash_token(value) for path, value in self.values.items()}


def role_password(name: str) -> str:
    """Return the path of an ordinary role's password, which is created with the role, not by a set-up."""
    return f"{ROLES_FOLDER}/{name}_password"


def role_mode(path: str) -> int:
    """Return the mode of an ordinary role's password file: a container without root may have to read it."""
    mounted = {one.path for component in COMPONENTS.values() for one in component.secrets if one.read_without_root}
    return 0o644 if path in mounted else 0o600


def generate() -> str:
    """Generate a random secret that never needs quoting."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def saved(root: Path, path: str) -> str | None:
    """Read one secret. One line break at the end, from an editor, is ignored.

    Raises UsageError for an invalid password: several lines, only a line break, not UTF-8.
    """
    found = read_file(root, path)
    if found is None or not found.content:
        return None
    try:
        secret = without_line_end(found.content.decode())
    except UnicodeDecodeError:
        raise UsageError(
            f"{root / path} is not UTF-8 text.",
            hint="Restore it from a copy: the cluster was created with this secret.",
        ) from None
    if problem := password_problem(secret):
        raise UsageError(
            f"The password in {root / path} cannot be used: {problem}.",
            hint="Write the password with which the cluster was created into it, on a single line.",
        )
    return secret


def read_password_file(path: Path) -> str:
    """Read a password from a user's file. One line break at the end is ignored."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"The password file {path} cannot be read: {reason}.", hint="Check the path and its permissions."
        ) from error
    return without_line_end(text)


def prepare(root: Path, *, given_password: str | None, wanted: Collection[ComponentName]) -> Secrets:
    """Choose every secret that these components need. Nothing is written yet, and no secret is ever removed.

    Raises UsageError for an invalid password, ImmutableError if it differs from the saved one.
    """
    if given_password is not None and (problem := password_problem(given_password)):
        raise UsageError(f"This password cannot be used: {problem}.")
    kept = saved(root, SUPERUSER_PASSWORD)
    if kept is not None and given_password is not None and kept != given_password:
        raise ImmutableError(
            "The given password differs from the one with which this cluster was created; nothing was written.",
            hint="Omit --pass to keep the saved password. To change it, run ALTER ROLE … PASSWORD on the coordinator, "
            f"update pg_dist_authinfo on every node, and write the new password into {SUPERUSER_PASSWORD}.",
        )
    values = {SUPERUSER_PASSWORD: kept or given_password or generate()}
    needed = {one.path: one for name, component in COMPONENTS.items() if name in wanted for one in component.secrets}
    needed[SUPERUSER_PASSWORD] = citus.SUPERUSER_PASSWORD
    values |= {path: saved(root, path) or generate() for path in needed if path not in values}
    # Only the folder protects files that a process without root reads.
    with_api = ComponentName.ADMIN_API in wanted
    readable = {path for path, one in needed.items() if one.read_without_root or (with_api and one.for_admin_api)}
    files = {}
    for path, value in values.items():
        secret = WantedFile(value.encode(), 0o644 if path in readable else 0o600)
        found = read_file(root, path)
        # A line break from an editor is removed, for readers that we do not know.
        if found is None or (found.content, found.mode) != (secret.content, secret.mode):
            files[path] = secret
    return Secrets(values, files)
