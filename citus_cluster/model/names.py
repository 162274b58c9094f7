"""Valid names, addresses and passwords; each check returns the problem, or None."""

import ipaddress
import re
from urllib.parse import urlsplit

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?"
)
_ROLES_THAT_CANNOT_BE = {"public", "none"}
_PASSWORD_LIMIT = 1000


def project_problem(name: str) -> str | None:
    """Check a Compose project name: lower-case letters, digits, ``-`` and ``_``, the first a letter or digit.

    Forty characters leave room for the service's part of a container's name (63 in a host name).
    """
    if _PROJECT.fullmatch(name):
        return None
    return (
        f"{name!r} is not a valid Compose project name: use lower-case letters, digits, '-' and '_', "
        "beginning with a letter or digit, at most 40 characters"
    )


def container_name(project: str, service: str) -> str:
    """Return the name of a container: another project name replaces ``citus``, or comes before the rest."""
    if project == "citus":
        return service
    if service.startswith("citus-"):
        return f"{project}-{service.removeprefix('citus-')}"
    return f"{project}-{service}"


def volume_name(project: str, service: str) -> str:
    """Name of the volume in which a service keeps its data."""
    return f"{project}_{service}-data"


def identifier_problem(name: str) -> str | None:
    """Check the name of a database or role: ASCII, at most 63 bytes, as PostgreSQL keeps them."""
    if not _IDENTIFIER.fullmatch(name):
        return (
            f"{name!r} is not a valid name: use letters, digits, '_' and '-', beginning with a letter or '_', "
            "at most 63 characters"
        )
    return None


def user_problem(name: str) -> str | None:
    if name.lower() in _ROLES_THAT_CANNOT_BE or name.lower().startswith("pg_"):
        return f"{name!r} is reserved by PostgreSQL: choose another name"
    return identifier_problem(name)


def database_problem(name: str) -> str | None:
    if name in {"template0", "template1"}:
        return f"{name!r} is a template database of PostgreSQL: choose another name"
    return identifier_problem(name)


def password_problem(password: str) -> str | None:
    """Check a password: any printable characters. The message never repeats the password."""
    if not password:
        return "the password is empty: set one, or omit it for a random one"
    if not password.isprintable():
        return "the password has a line break, NUL or another control character: use printable characters"
    if len(password) > _PASSWORD_LIMIT:
        return f"the password is longer than {_PASSWORD_LIMIT} characters: use a shorter one"
    return None


def without_line_end(text: str) -> str:
    """Remove one line end, which an editor adds, from a password that is kept in a file."""
    return text.removesuffix("\n").removesuffix("\r")


def directory_problem(path: str) -> str | None:
    """Check a directory's path, which Docker Compose uses in a URL without quoting it."""
    if any(not character.isprintable() for character in path if character.isascii()):
        return "has a line break or another control character in its path"
    if re.search(r"%(?![0-9A-Fa-f]{2})", path):
        return "has a % in its path"
    return None


def bind_problem(address: str) -> str | None:
    """Check an address to publish ports on: Docker requires an IP address, not a name."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return f"{address!r} is not an IP address: use 127.0.0.1 for only this machine, or 0.0.0.0 for all interfaces"
    return None


_SCHEME = re.compile(r"https?://")
_ORIGIN = re.compile(r"https?://(?P<host>[a-z0-9.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")


def is_url(text: str) -> bool:
    """Return whether a text is a URL of the web, not the path of a file."""
    return _SCHEME.match(text) is not None


def origin_problem(origin: str) -> str | None:
    """Check the origin of a web page, as browsers send it: scheme, host in lower case, and a port that is not usual."""
    found = _ORIGIN.fullmatch(origin)
    if found is None or host_problem(found["host"].strip("[]")):
        return (
            f"{origin!r} is not the origin of a web page: use a scheme, a host in lower case and perhaps a port, such "
            "as https://console.example.com or http://localhost:3000, without a path; '*' is not possible"
        )
    usual_port = "443" if origin.startswith("https") else "80"
    if found["port"] == usual_port or int(found["port"] or 1) > 65535:
        return f"{origin!r} has a port that browsers omit, or that does not exist: leave it out"
    return None


def key_source_problem(source: str) -> str | None:
    """Check where the public keys of an issuer are: a URL, or the path of a file."""
    if not is_url(source):
        if not source or not source.isprintable() or "://" in source:
            return f"{source!r} is neither a URL that begins with https:// nor the path of a file"
        return None
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if host_problem(host) or parts.username is not None or parts.fragment or not source.isprintable() or " " in source:
        return f"{source!r} is not a URL with a host, and without a password"
    if parts.scheme == "http" and not _is_inside(host):
        return f"{source!r} is not protected: whoever can change the answer on its way can log in as an admin; use https://"
    return None


def _is_inside(host: str) -> bool:
    """Return whether a host is probably in a network of the user's own: a plain name, or a private address."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host


def host_problem(host: str) -> str | None:
    """Check a name or address under which a server can be reached."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if _HOST.fullmatch(host) and not re.fullmatch(r"[0-9.]+", host):
            return None
        return f"{host!r} is not a host name or IP address"
    return None


def advertise_problem(host: str) -> str | None:
    """Check an address that must lead to this machine from other servers too."""
    problem = host_problem(host)
    if problem:
        return problem
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if host.rstrip(".").lower() == "localhost":
            return (
                "'localhost' is a different machine on every server: use this server's name or address in the network"
            )
        return None
    if address.is_loopback or address.is_unspecified:
        return f"{host} is not reachable from other servers: use this server's address in the network"
    return None
