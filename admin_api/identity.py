"""Who sends a request, and why it may be refused."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from starlette.types import Scope

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.token_role import Role

IDENTITY_KEY = "citus_cluster.identity"
"""The key of an ASGI scope that holds the :class:`Identity` of the request."""


class Via(StrEnum):
    """How a client proved who it is."""

    TOKEN = "token"  # noqa: S105 - a word of the journal
    JWT = "jwt"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends a request: the name of its token, and what it may do."""

    name: str
    role: Role
    via: Via = Via.TOKEN


def identity_of(scope: Scope) -> Identity | None:
    """Return who sends a request; None if the request has no valid token, or needs none."""
    identity = scope.get(IDENTITY_KEY)
    assert identity is None or isinstance(identity, Identity)  # noqa: S101 - a scope has no types
    return identity


class UnauthorizedError(CitusClusterError):
    """The request has no valid token."""

    code = "unauthorized"
    http_status = 401
    challenge: ClassVar[str] = ', error="invalid_token"'
    """The end of the header WWW-Authenticate."""


class MissingTokenError(UnauthorizedError):
    """The request has no token."""

    challenge = ""


class TokenExpiredError(UnauthorizedError):
    """The token has expired."""

    code = "token-expired"
    challenge = ', error="invalid_token", error_description="The token has expired"'


class ForbiddenError(CitusClusterError):
    """The token does not allow this."""

    code = "forbidden"
    http_status = 403


class RateLimitedError(CitusClusterError):
    """The client sent too many requests."""

    code = "too-many-requests"
    http_status = 429

    def __init__(self, message: str, *, wait_s: float) -> None:
        self.retry_after_s = max(1, math.ceil(wait_s))
        super().__init__(message, hint=f"Try again in {self.retry_after_s} s.")
