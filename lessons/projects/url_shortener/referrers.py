"""Where visitors come from."""

from urllib.parse import urlsplit

DIRECT = "direct"
INVALID = "invalid"


def host_of(referrer: str) -> str:
    """Give the host of a Referer header: ``direct`` without one, ``invalid`` if it is not an http or https address."""
    if not referrer:
        return DIRECT
    try:
        parts = urlsplit(referrer)
        host = parts.hostname
    except ValueError:
        return INVALID
    return host if host and parts.scheme in ("http", "https") else INVALID
