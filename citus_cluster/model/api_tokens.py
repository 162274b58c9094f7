"""Named tokens of the admin API: their roles, names and lifetimes, and the file that holds their hashes.

The command line writes this file, and the API reads it. A token itself is shown once, when it is created.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, with_config

from citus_cluster.errors import NotFoundError, UsageError
from citus_cluster.model.api_config import TokenHash, dump_json, parse_json
from citus_cluster.model.documents import Documented, as_data
from citus_cluster.model.token_role import NAMED_TOKENS_FILE, Role

TOKEN_PREFIX = "ccl_"  # noqa: S105 - scanners for secrets recognise tokens by it
MAX_TOKENS = 100
"""Each request is compared with all of them."""
MAX_NAME = 63
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LIFETIME = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
MAX_LIFETIME = timedelta(days=3653)
NEVER = "never"


BUILT_IN = tuple(role.value for role in Role)
"""The names of the two tokens that a set-up creates in generated/secrets/; no other token has such a name."""


@with_config({"strict": True})
@dataclass(frozen=True)
class NamedToken(Documented):
    """One token; ``sha256`` is its hash in hexadecimal. Without ``expires_at``, it is valid until it is revoked."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=f"^{_NAME.pattern}$")]
    role: Role
    sha256: TokenHash
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None

    def is_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@with_config({"strict": True})
@dataclass(frozen=True)
class NamedTokens(Documented):
    """The file of the named tokens, ``named-tokens.json``."""

    tokens: tuple[NamedToken, ...] = ()

    def to_json(self) -> str:
        """Return the text of the file, with a newline at its end."""
        return dump_json(as_data(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse the file; raise SpecError with one line for each problem."""
        return parse_json(
            cls,
            text,
            NAMED_TOKENS_FILE,
            hint="Restore it from a copy, or remove it and create the tokens again: citus-cluster tokens create NAME",
        )

    def with_token(self, token: NamedToken) -> Self:
        """Add a token; one of the same name that has expired is replaced.

        Raises UsageError if the name is taken, or if there are too many tokens.
        """
        kept = tuple(one for one in self.tokens if one.name != token.name or not one.is_expired(token.created_at))
        if token.name in BUILT_IN:
            raise UsageError(
                f"The name {token.name!r} belongs to the token in generated/secrets/.", hint="Choose another name."
            )
        if any(one.name == token.name for one in kept):
            raise UsageError(
                f"A token named {token.name!r} exists.",
                hint="To rotate it, create one with another name, use that one, then revoke this one: "
                f"citus-cluster tokens revoke {token.name}",
            )
        if len(kept) >= MAX_TOKENS:
            raise UsageError(
                f"There are {len(kept)} tokens, the largest possible number.",
                hint="Revoke tokens that are not used any more: citus-cluster tokens revoke NAME",
            )
        return replace(self, tokens=(*kept, token))

    def without(self, name: str) -> tuple[Self, NamedToken]:
        """Remove a token; return the others, and the removed one. Raises NotFoundError."""
        found = next((one for one in self.tokens if one.name == name), None)
        if found is None:
            raise _unknown(name, [one.name for one in self.tokens])
        return replace(self, tokens=tuple(one for one in self.tokens if one is not found)), found


def _unknown(name: str, known: Iterable[str]) -> NotFoundError:
    if name in BUILT_IN:
        return NotFoundError(
            f"The token {name!r} is one of the two that a set-up creates.",
            hint="To replace it, remove its file (generated/secrets/admin_api_token or admin_api_read_token), then run "
            "python setup_citus_cluster.py",
        )
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return NotFoundError(f"There is no token {name!r}.{guess}", hint="List the tokens: citus-cluster tokens list")


def refuse_name(name: str) -> None:
    """Raise UsageError for a name that is not valid."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:100]!r} is not a valid name of a token.",
            hint=f"Use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most {MAX_NAME} "
            "characters.",
        )


def lifetime(text: str) -> timedelta | None:
    """Parse how long a token is valid, such as ``90d``; None for ``never``. Raises UsageError."""
    if text == NEVER:
        return None
    found = _LIFETIME.fullmatch(text)
    if found is None or (span := int(found[1]) * _UNITS[found[2]]) > MAX_LIFETIME:
        raise UsageError(
            f"{text[:100]!r} is not a valid lifetime of a token.",
            hint=f"Use a number and a unit (m, h, d, w), such as 90d, at most {MAX_LIFETIME.days}d; or '{NEVER}' for a "
            "token that is valid until it is revoked.",
        )
    return span
