"""What is asked of a run: where, how many, how fast. Parsed once from the command line."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
REPEATABLE = frozenset({"GET", "PUT", "DELETE"})
"""Methods of which a request may be sent again (RFC 9110, 9.2.2) when an idle connection turns out to be closed."""


class PlanError(ValueError):
    """The run cannot be as asked. The message says why, and gives an example."""


@dataclass(frozen=True)
class Target:
    """A server, and the bytes of the one request that it gets again and again."""

    url: str
    method: str
    host: str
    port: int
    tls: bool
    request: bytes = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """One run. It ends after ``requests``, or after ``duration_s``, whichever comes first; one of them is given.

    Without ``rate`` the loop is closed: each of ``concurrency`` clients sends its next request when it has its answer.
    With ``rate`` it is open: requests are due at this number per second, whatever the server does.
    """

    target: Target
    concurrency: int = 10
    requests: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    timeout_s: float = 10.0


def target_of(
    url: str, method: str = "GET", headers: tuple[str, ...] = (), data: bytes = b"", *, keep_alive: bool = True
) -> Target:
    """Return the target of a URL. Raises PlanError for a URL or a header (``NAME: VALUE``) that is none."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError as error:
        raise PlanError(f"The port in {url!r} is not a number from 0 to 65535.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PlanError(f"{url!r} is not an HTTP URL. An example is http://localhost:8080/path")
    lines = {"host": parts.netloc.rpartition("@")[2], "user-agent": "loadtest", "accept": "*/*"}
    if not keep_alive:
        lines["connection"] = "close"
    if data or method in ("POST", "PUT", "PATCH"):
        lines["content-length"] = str(len(data))
    for header in headers:
        name, colon, value = header.partition(":")
        if not (colon and name.strip()) or "\r" in header or "\n" in header:
            raise PlanError(f"{header!r} is not a header. An example is 'Authorization: Bearer TOKEN'")
        lines[name.strip().lower()] = value.strip()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if any(character <= " " or character > "~" for character in path):
        raise PlanError(f"The path {path!r} has characters that a URL must encode, such as %20 for a space.")
    head = "".join(
        [f"{method} {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in lines.items()), "\r\n"]
    )
    tls = parts.scheme == "https"
    return Target(url, method, parts.hostname, port or (443 if tls else 80), tls, head.encode() + data)
