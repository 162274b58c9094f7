"""The static files of the pages. Their addresses contain a hash of their content, so a browser keeps them for good."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from admin_api.settings import STATIC_PREFIX

KEPT = "public, max-age=31536000, immutable"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class Asset:
    """One file, with its address."""

    name: str
    content: bytes = field(repr=False)
    digest: str

    @property
    def url(self) -> str:
        return f"{STATIC_PREFIX}{self.digest}/{self.name}"

    @property
    def media_type(self) -> str:
        return _TYPES[self.name.rpartition(".")[2]]


@cache
def assets() -> Mapping[str, Asset]:
    """Return all static files by name, such as ``vendor/htmx.min.js``."""
    return {one.name: one for one in _found(files("admin_api.pages") / "static", "")}


def _found(folder: Traversable, prefix: str) -> list[Asset]:
    found: list[Asset] = []
    for one in sorted(folder.iterdir(), key=lambda one: one.name):
        if one.is_dir():
            found += _found(one, f"{prefix}{one.name}/")
        elif one.name.rpartition(".")[2] in _TYPES:
            content = one.read_bytes()
            found.append(Asset(prefix + one.name, content, hashlib.sha256(content).hexdigest()[:16]))
    return found


def url_of(name: str) -> str:
    """Return the address of a file."""
    return assets()[name].url
