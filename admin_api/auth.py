"""Authentication with bearer tokens for two roles, which are checked before any other code reads a request."""

import hmac
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from fastapi import Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from admin_api.configuration import Configuration
from admin_api.identity import (
    IDENTITY_KEY,
    ForbiddenError,
    Identity,
    MissingTokenError,
    RateLimitedError,
    TokenExpiredError,
    UnauthorizedError,
)
from admin_api.problems import from_error, problem
from admin_api.rate_limits import RateLimits
from admin_api.sessions import CSRF_HEADER, SESSION_KEY, Sessions, cookie_of, refuse_forged
from admin_api.settings import API_PREFIX, LOG_OUT_PATH, OPEN_PATHS, STATIC_PREFIX, Settings
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.api_config import hash_token
from citus_cluster.model.api_tokens import NamedToken
from citus_cluster.model.token_role import Role

if TYPE_CHECKING:
    from admin_api.jwt_tokens import JwtVerifier

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HINT = (
    "Send the header 'Authorization: Bearer …' with a token: the one in generated/secrets/admin_api_token, or a new "
    "one: citus-cluster tokens create NAME"
)

bearer = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="The token in generated/secrets/admin_api_token, or that in admin_api_read_token for only GET, or one "
    "that `citus-cluster tokens create` made.",
)
"""Declares the scheme in the OpenAPI document; the middleware enforces it."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Authenticator:
    """Finds out who a token belongs to, however it was sent, and limits guesses and changes."""

    def __init__(
        self, settings: Settings, configuration: Configuration, now: Callable[[], datetime] = _utc_now
    ) -> None:
        self._settings = settings
        self._configuration = configuration
        self._now = now
        self._jwt_verifier: JwtVerifier | None = None
        self._guesses = RateLimits(settings.failed_log_ins)
        self._changes = RateLimits(settings.changes)

    async def identify(self, token: str, client: str | None) -> Identity:
        """Return the owner of a token that the address ``client`` sent.

        Raises UnauthorizedError, TokenExpiredError, ForbiddenError, RateLimitedError, ConfigurationError, IssuerError.
        A valid token is accepted whatever its address did before: Docker can hide all clients of a published port
        behind one address.
        """
        config = self._configuration.cluster().jwt if looks_like_jwt(token) else None
        if found := self._compare(token, may_be_named=config is None):
            return found
        try:
            if config:
                return await self._jwt().identify(token, config)
            raise UnauthorizedError("The token is invalid.", hint=_HINT)
        except TokenExpiredError:
            raise
        except UnauthorizedError:
            wait_s = self._guesses.take(_network_of(client))
            if wait_s:
                raise RateLimitedError(
                    "Too many requests with a wrong token came from this address.", wait_s=wait_s
                ) from None
            raise

    def allow(self, identity: Identity, method: str) -> None:
        """Check what an identity may do now. Raises ForbiddenError, RateLimitedError."""
        if method in SAFE_METHODS:
            return
        if identity.role is Role.READ:
            raise ForbiddenError(
                "The read token allows only GET.",
                hint="Send a token with the role admin, such as the one in generated/secrets/admin_api_token.",
            )
        wait_s = self._changes.take((identity.via, identity.name))
        if wait_s:
            raise RateLimitedError("Too many changes were requested with this token.", wait_s=wait_s)

    def _jwt(self) -> "JwtVerifier":
        if self._jwt_verifier is None:
            # Its libraries take 11 MB of memory, which an API without an issuer saves.
            from admin_api.jwt_tokens import JwtVerifier

            self._jwt_verifier = JwtVerifier(self._settings, self._configuration)
        return self._jwt_verifier

    def _compare(self, token: str, *, may_be_named: bool) -> Identity | None:
        """Compare a token with all known ones, in a time that does not depend on which one it is."""
        presented = hash_token(token)
        built_in = self._configuration.tokens()
        found: Identity | NamedToken | None = None
        for service, hashed in built_in.services.items():
            if hmac.compare_digest(presented, hashed):
                found = Identity(service, Role.READ)
        for role, hashed in ((Role.READ, built_in.read), (Role.ADMIN, built_in.admin)):
            if hmac.compare_digest(presented, hashed):
                found = Identity(role.value, role)
        for named in self._named(is_needed=found is None and may_be_named):
            if hmac.compare_digest(presented, named.sha256):
                found = named
        if isinstance(found, NamedToken):
            if found.is_expired(self._now()):
                raise TokenExpiredError(
                    f"The token {found.name!r} expired at {found.expires_at:%Y-%m-%d %H:%M} UTC.",
                    hint="Create another one: citus-cluster tokens create NAME",
                )
            return Identity(found.name, found.role)
        return found

    def _named(self, *, is_needed: bool) -> Iterator[NamedToken]:
        try:
            yield from self._configuration.named_tokens().tokens
        except CitusClusterError:
            # A damaged file does not lock out the tokens of the set-up.
            if is_needed:
                raise


def looks_like_jwt(token: str) -> bool:
    """Return whether a token has the form of a JWT: three parts, the first of which begins with a brace."""
    return token.startswith("eyJ") and token.count(".") == 2


def _network_of(client: str | None) -> str | None:
    """Return the address that counts as one client: one machine has all addresses of an IPv6 network."""
    if client and ":" in client:
        with suppress(ValueError):
            return str(IPv6Network((IPv6Address(client.partition("%")[0]), 64), strict=False))
    return client


RefusePage = Callable[[Scope, CitusClusterError], Response]


class RequireToken:
    """Requires a token for each request. This is a middleware, so that no route can be forgotten.

    A browser sends the cookie of a session in place of a token. ``refuse_page`` answers a browser that may not see a
    page; everybody else gets problem+json.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator, sessions: Sessions, refuse_page: RefusePage) -> None:
        self._app = app
        self._authenticator = authenticator
        self._sessions = sessions
        self._refuse_page = refuse_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and _is_open(scope["path"])):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            await self._check(scope)
        except CitusClusterError as error:
            answer = self._refuse_page(scope, error) if is_browser(scope) else refusal(error)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        client = scope["client"][0] if scope.get("client") else None
        token = _token(headers)
        if token is not None:
            identity = await self._authenticator.identify(token, client)
        else:
            identity = await self._of_session(scope, headers, client)
        # Before the check, so that the log names who was refused.
        scope[IDENTITY_KEY] = identity
        if scope["path"] != LOG_OUT_PATH:
            self._authenticator.allow(identity, scope["method"])

    async def _of_session(self, scope: Scope, headers: Headers, client: str | None) -> Identity:
        cookie = cookie_of(headers)
        if cookie is None:
            raise MissingTokenError("This request requires a bearer token.", hint=_HINT)
        session, identity = await self._sessions.identify(cookie, client)
        if scope["method"] not in SAFE_METHODS:
            # A browser sends the cookie with requests of any page, so it must prove that the page is ours.
            self._sessions.refuse_cross_site(headers)
            if scope["path"].startswith(API_PREFIX):
                # The pages' own routes find it in the form.
                refuse_forged(session, headers.get(CSRF_HEADER))
        scope[SESSION_KEY] = session
        return identity


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(STATIC_PREFIX)


def is_browser(scope: Scope) -> bool:
    """Return whether a person asks for a page, and should get HTML."""
    return not scope["path"].startswith(API_PREFIX) and "text/html" in Headers(scope=scope).get("accept", "")


def refusal(error: CitusClusterError) -> JSONResponse:
    """Return the response for an error of the :class:`Authenticator`."""
    match error:
        case UnauthorizedError():
            headers = {"WWW-Authenticate": f'Bearer realm="citus-cluster"{error.challenge}'}
        case RateLimitedError():
            headers = {"Retry-After": str(error.retry_after_s)}
        case ForbiddenError():
            headers = {}
        case _:
            return from_error(error)
    code, title = (error.code, "The token has expired") if isinstance(error, TokenExpiredError) else (None, None)
    return problem(
        error.http_status, code=code, title=title, detail=error.message, hint=error.hint, headers=headers or None
    )


def _token(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
