"""The one Jinja environment of all templates: strict, and with the quoting that YAML and Compose need."""

import json
from collections.abc import Mapping
from functools import lru_cache

import jinja2


def quoted(value: object) -> str:
    """Quote for YAML, and keep Compose from interpolating a dollar sign."""
    return json.dumps(str(value), ensure_ascii=False).replace("$", "$$")


def host_address(address: str) -> str:
    """Write an IPv6 address in brackets, as a published port requires."""
    return f"[{address}]" if ":" in address else address


@lru_cache(maxsize=4)
def _environment(templates: tuple[tuple[str, str], ...]) -> jinja2.Environment:
    environment = jinja2.Environment(  # noqa: S701 - the output is YAML and settings, never HTML
        loader=jinja2.DictLoader(dict(templates)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quoted
    environment.filters["host_address"] = host_address
    return environment


def environment(templates: Mapping[str, str]) -> jinja2.Environment:
    """Return the environment for these templates (name -> text)."""
    return _environment(tuple(sorted(templates.items())))
