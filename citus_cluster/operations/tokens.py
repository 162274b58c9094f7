"""Named tokens of the admin API: create, list and revoke them. The running API notices each change at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from citus_cluster.errors import UsageError
from citus_cluster.model.api_config import hash_token
from citus_cluster.model.api_tokens import TOKEN_PREFIX, NamedToken, NamedTokens, lifetime, refuse_name
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components.admin_api import ADMIN_TOKEN, READ_TOKEN
from citus_cluster.model.documents import Documented
from citus_cluster.model.plan.changes import WantedFile
from citus_cluster.model.token_role import NAMED_TOKENS_FILE, Role
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.journaled import Journal
from citus_cluster.render.bundle import CONFIG_FOLDER
from citus_cluster.runtime.store import files, secrets


class TokenState(StrEnum):
    """Whether a token is valid now."""

    VALID = "valid"
    EXPIRED = "expired"


@dataclass(frozen=True)
class ListedToken(Documented):
    """A token in the list, without its hash. One of the two that a set-up creates has a ``file``, and no times."""

    name: str
    role: Role
    state: TokenState = TokenState.VALID
    created_at: datetime | None = None
    expires_at: datetime | None = None
    file: str | None = None

    @classmethod
    def of(cls, token: NamedToken, now: datetime) -> "ListedToken":
        state = TokenState.EXPIRED if token.is_expired(now) else TokenState.VALID
        return cls(token.name, token.role, state, token.created_at, token.expires_at)


@dataclass(frozen=True)
class TokenList(Documented):
    """All tokens of a cluster's admin API, those of the set-up first."""

    tokens: Sequence[ListedToken]


@dataclass(frozen=True)
class CreatedToken(Documented):
    """A new token with the token itself, which is not kept anywhere."""

    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    token: str = field(repr=False)


def create(directory: Directory, journal: Journal, name: str, *, role: Role, expires: str) -> CreatedToken:
    """Create a token, valid for ``expires`` (``90d``, ``never``), under the directory's lock.

    Raises UsageError for arguments that are not valid, and for a name that is taken.
    """
    refuse_name(name)
    span = lifetime(expires)
    path = _file_of(directory)
    with (
        files.locked(directory.root),
        journal.entry("tokens-create", name=name, role=role, expires=expires) as entry,
    ):
        now = _now()
        token = TOKEN_PREFIX + secrets.generate()
        made = NamedToken(name, role, hash_token(token), now, now + span if span else None)
        _write(directory, path, _read(directory, path).with_token(made))
        entry.tell(expires_at=made.expires_at)
    return CreatedToken(name, role, made.created_at, made.expires_at, token)


def revoke(directory: Directory, journal: Journal, name: str) -> ListedToken:
    """Revoke a token at once, under the directory's lock. Raises NotFoundError."""
    path = _file_of(directory)
    with files.locked(directory.root), journal.entry("tokens-revoke", name=name) as entry:
        others, revoked = _read(directory, path).without(name)
        _write(directory, path, others)
        entry.tell(role=revoked.role, expires_at=revoked.expires_at)
    return ListedToken.of(revoked, _now())


def list_tokens(directory: Directory) -> TokenList:
    """Return all tokens. Raises SpecError for a damaged file."""
    found = _read(directory, _file_of(directory))
    now = _now()
    built_in: Mapping[Role, str] = {Role.ADMIN: ADMIN_TOKEN.path, Role.READ: READ_TOKEN.path}
    return TokenList(
        (
            *(ListedToken(role.value, role, file=path) for role, path in built_in.items()),
            *(ListedToken.of(token, now) for token in found.tokens),
        )
    )


def _file_of(directory: Directory) -> str:
    services = directory.topology.of(ComponentName.ADMIN_API)
    if not services:
        raise UsageError(
            "The admin API is not enabled in this directory.",
            hint="Add admin-api to the services in cluster.yaml, then run setup_citus_cluster.py and citus-cluster up.",
        )
    return f"{CONFIG_FOLDER}/{services[0].config}/{NAMED_TOKENS_FILE}"


def _read(directory: Directory, path: str) -> NamedTokens:
    found = files.read_file(directory.root, path)
    return NamedTokens.from_json(found.content) if found else NamedTokens()


def _write(directory: Directory, path: str, tokens: NamedTokens) -> None:
    # The container's user reads it, like the other files of this folder.
    files.keep_file(directory.root, path, WantedFile(tokens.to_json().encode()))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
