"""Authentication with bearer tokens for two roles, which are checked before any other code reads a request."""

import hmac
from enum import StrEnum

from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from admin_api.configuration import Configuration
from admin_api.problems import from_error, problem
from admin_api.settings import OPEN_PATHS
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.api_config import ApiTokens, hash_token

ROLE_KEY = "citus_cluster.role"
"""The key of an ASGI scope that holds the role of the request's token."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

bearer = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="The token in generated/secrets/admin_api_token, or that in admin_api_read_token for only GET.",
)
"""Declares the scheme in the OpenAPI document; the middleware enforces it."""


class Role(StrEnum):
    """The role of a token: what it allows."""

    ADMIN = "admin"
    READ = "read"


def role_of(token: str, tokens: ApiTokens) -> Role | None:
    """Return the role of a token in constant time: both hashes are always compared."""
    presented = hash_token(token)
    is_admin = hmac.compare_digest(presented, tokens.admin)
    is_read = hmac.compare_digest(presented, tokens.read)
    if is_admin:
        return Role.ADMIN
    return Role.READ if is_read else None


class RequireToken:
    """Requires a token for each request. This is a middleware, so that no route can be forgotten."""

    def __init__(self, app: ASGIApp, configuration: Configuration) -> None:
        self._app = app
        self._configuration = configuration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN_PATHS):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        role = self._role(scope)
        if not isinstance(role, Role):
            await role(scope, receive, send)
            return
        scope[ROLE_KEY] = role
        await self._app(scope, receive, send)

    def _role(self, scope: Scope) -> Role | JSONResponse:
        """Return the role of the request's token, or the response that refuses the request."""
        token = _token(Headers(scope=scope))
        if token is None:
            return _unauthorized('Bearer realm="citus-cluster"', "This request requires a bearer token.")
        try:
            tokens = self._configuration.tokens()
        except CitusClusterError as error:
            return from_error(error)
        role = role_of(token, tokens)
        if role is None:
            return _unauthorized('Bearer realm="citus-cluster", error="invalid_token"', "The token is invalid.")
        if role is Role.READ and scope["method"] not in SAFE_METHODS:
            return problem(
                403,
                detail="The read token allows only GET.",
                hint="Send the token in generated/secrets/admin_api_token.",
            )
        return role


def _token(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _unauthorized(challenge: str, detail: str) -> JSONResponse:
    return problem(
        401,
        detail=detail,
        hint="Send the header 'Authorization: Bearer …' with the token in generated/secrets/admin_api_token.",
        headers={"WWW-Authenticate": challenge},
    )
