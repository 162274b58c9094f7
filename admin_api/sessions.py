"""Sessions of browsers: a cookie is another way to carry a token.

A session is checked like its token, with each request, so it ends when the token is revoked, replaced, or expires. The
cookie holds a random id. This process keeps only the id's hash, and the token enciphered with a key that the id yields:
neither the browser nor a copy of the memory holds the token. The sessions end with the process.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from admin_api.identity import ForbiddenError, Identity, TokenExpiredError, UnauthorizedError
from citus_cluster.model.names import origin_problem

COOKIE = "citus_cluster_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"
SESSION_KEY = "citus_cluster.session"
"""The key of an ASGI scope that holds the :class:`Session` of the request."""
MAX_SESSIONS = 1000
MAX_AGE_S = 12 * 3600.0
MAX_IDLE_S = 2 * 3600.0
MAX_TOKEN = 4096
"""Characters of a token that a form may send."""
Identify = Callable[[str, str | None], Awaitable[Identity]]
"""Finds out who a token belongs to that a client's address sent (``Authenticator.identify``)."""


class SessionEndedError(UnauthorizedError):
    """The session has ended."""

    code = "session-ended"
    challenge = ""


class CrossSiteError(ForbiddenError):
    """The request did not come from a page of this API."""

    code = "cross-site"


@dataclass
class Session:
    """A browser that has logged in. ``csrf`` is in each of its forms. Times are of the monotonic clock."""

    csrf: str = field(repr=False)
    enciphered: bytes = field(repr=False)
    began_s: float
    used_s: float
    is_revoked: bool = False


class Sessions:
    """The sessions of this process.

    ``public_origins`` returns those at which browsers open the console through a proxy; it may raise
    ConfigurationError.
    """

    def __init__(
        self,
        identify: Identify,
        clock: Callable[[], float] = time.monotonic,
        *,
        public_origins: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._identify = identify
        self._public_origins = public_origins
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}

    async def begin(self, token: str, client: str | None) -> tuple[str, Identity]:
        """Begin a session with a token. Returns the value of its cookie. Raises what ``identify`` raises."""
        identity = await self._identify(token, client)
        value = secrets.token_urlsafe(32)
        now = self._clock()
        self._forget_old(now)
        self._sessions[_hash(value)] = Session(
            csrf=secrets.token_urlsafe(32), enciphered=_cipher(value, token.encode()), began_s=now, used_s=now
        )
        return value, identity

    async def identify(self, value: str, client: str | None) -> tuple[Session, Identity]:
        """Return the session of a cookie, and who it belongs to.

        Raises SessionEndedError, and TokenExpiredError, and what else ``identify`` raises.
        """
        key, now = _hash(value), self._clock()
        session = self._sessions.get(key)
        if session is None or self._is_over(session, now):
            self._sessions.pop(key, None)
            raise SessionEndedError("The session has ended.", hint="Log in again.")
        if session.is_revoked:
            raise _revoked()
        session.used_s = now
        try:
            identity = await self._identify(_cipher(value, session.enciphered).decode(), client)
        except TokenExpiredError:
            raise
        except UnauthorizedError:
            # The session is kept without its token until it is too old, so that each tab is told why it ended.
            session.is_revoked, session.enciphered = True, b""
            raise _revoked() from None
        return session, identity

    def end(self, value: str) -> None:
        """End a session, if it exists."""
        self._sessions.pop(_hash(value), None)

    def refuse_cross_site(self, headers: Headers) -> None:
        """Raise CrossSiteError if a browser says that a page of another origin sent the request.

        Only what a page cannot set counts: headers of proxies, such as ``X-Forwarded-Host``, can come from anybody.
        """
        site = headers.get("sec-fetch-site")
        if site is not None and site not in {"same-origin", "none"}:
            raise _cross_site()
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is None or (host and urlsplit(origin).netloc.lower() == host.lower()):
            return
        if origin not in self._public_origins():
            raise _cross_site() if origin_problem(origin) else _unknown_origin(origin, host)

    def _is_over(self, session: Session, now: float) -> bool:
        return now - session.began_s > MAX_AGE_S or now - session.used_s > MAX_IDLE_S

    def _forget_old(self, now: float) -> None:
        for key in [key for key, one in self._sessions.items() if self._is_over(one, now)]:
            del self._sessions[key]
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].used_s)]


def cookie_of(headers: Headers) -> str | None:
    """Return the value of the session's cookie, if the request has one."""
    for line in headers.getlist("cookie"):
        try:
            found = SimpleCookie(line).get(COOKIE)
        except CookieError:
            continue
        if found is not None and found.value:
            return found.value
    return None


def session_of(scope: Scope) -> Session | None:
    """Return the session of a request; None if it carries its token itself."""
    session = scope.get(SESSION_KEY)
    assert session is None or isinstance(session, Session)  # noqa: S101 - a scope has no types
    return session


def refuse_forged(session: Session, presented: str | None) -> None:
    """Raise CrossSiteError unless the request has the secret of the session's forms."""
    if presented is None or not hmac.compare_digest(presented.encode(), session.csrf.encode()):
        raise _cross_site()


def _revoked() -> SessionEndedError:
    return SessionEndedError(
        "The session has ended, because its token is no longer valid.", hint="Log in with another token."
    )


def _cross_site() -> CrossSiteError:
    return CrossSiteError(
        "The request did not come from a current page of this API.", hint="Reload the page, then try again."
    )


def _unknown_origin(origin: str, host: str) -> CrossSiteError:
    return CrossSiteError(
        f"The request came from a page of {origin}, but its header Host is {host!r}.",
        hint=f"If you opened the console at {origin}, a proxy changes this header: add {origin} to "
        "admin_api.public_origins in cluster.yaml and run setup_citus_cluster.py, or let the proxy keep the header. "
        "Otherwise, a page of another site sent the request: do not repeat it.",
    )


def _hash(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()


def _cipher(value: str, text: bytes) -> bytes:
    """Encipher or decipher with a key stream of the session's id, which is used for nothing else."""
    stream = hashlib.shake_256(b"citus-cluster session " + value.encode()).digest(len(text))
    return bytes(one ^ other for one, other in zip(text, stream, strict=True))
