"""Which addresses a link may lead to."""

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, HttpUrl, ValidationError

MAX_URL_LENGTH = 2083
"""The limit of pydantic's HttpUrl, and the longest address that every browser opens."""


class RefusedTargetError(Exception):
    """The address cannot be shortened. The message says why."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")
    url: HttpUrl


def read_target(body: bytes, base_url: str) -> str:
    """Read the address from the body of a request, as a browser would write it (``HttpUrl``).

    Raises RefusedTargetError for anything but http and https, and for links to this service, which could form a loop.
    """
    try:
        url = _Request.model_validate_json(body).url
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "The body"
        raise RefusedTargetError(
            f'{where}: {first["msg"]}. Send JSON such as {{"url": "https://example.com/page"}}; only http and https '
            "addresses are shortened."
        ) from error
    if url.username is not None or url.password is not None:
        raise RefusedTargetError(
            "url: An address with a user name or password is not shortened: everybody could read it."
        )
    own = urlsplit(base_url)
    if (url.host, url.port) == (own.hostname, own.port or (443 if own.scheme == "https" else 80)):
        raise RefusedTargetError("url: This address belongs to this service. Shorten the address that it leads to.")
    return str(url)
