"""The build context of the admin API's image: a Dockerfile, constraints, and the API as a wheel."""

import re
from collections.abc import Iterator, Mapping

from citus_cluster.render.templates import environment
from citus_cluster.render.wheel import make_wheel, wheel_name

_PACKAGE = "citus-cluster-admin-api"
_API = "admin_api"
_REQUIRES = (
    "fastapi",
    "uvicorn",
    "httptools",
    "pydantic",
    "psycopg[binary]",
    "jinja2",
    "redis",
    "cassandra-driver",
    "pyjwt[crypto]",
    "prometheus-client",
)
"""What the API imports, directly; constraints.txt has the versions."""

# Also imports inside a function, and a parenthesis that spans lines.
_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import\s+(\([^)]*\)|[^\n#]*)|import\s+([\w., ]+))", re.MULTILINE)


def render_api_context(
    dockerfile: str,
    constraints: str,
    sources: Mapping[str, str],
    *,
    version: str,
    data: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """Render the context, contents by path. ``sources`` are texts of Python files by path, ``admin_api/app.py``.

    ``data`` are the API's other files by path, such as the templates of its pages.
    """
    wheel = wheel_name(_PACKAGE, version)
    rendered = environment({"Dockerfile": dockerfile}).get_template("Dockerfile")
    packed = {path: sources[path].encode() for path in needed(sources)} | dict(data or {})
    return {
        "Dockerfile": rendered.render(wheel=wheel, requires=_REQUIRES).encode(),
        "constraints.txt": constraints.encode(),
        wheel: make_wheel(_PACKAGE, version, requires=_REQUIRES, files=packed),
    }


def needed(sources: Mapping[str, str]) -> frozenset[str]:
    """Return the paths of the API's own modules, and of all that these import, however indirectly.

    Read by a pattern instead of a parser, which would take longer than the rest of a set-up. A line of a docstring that
    looks like an import does no harm: it adds a module.
    """
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    waiting = [module for module in modules if module.split(".")[0] == _API]
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in modules and module not in found:
            found.add(module)
            waiting += [module.rpartition(".")[0], *_imported(sources[modules[module]])]
    return frozenset(modules[module] for module in found)


def _imported(source: str) -> Iterator[str]:
    """Return every name that may be a module."""
    for module, names, plain in _IMPORT.findall(source):
        yield from (name.split()[0] for name in plain.split(",") if name.strip())
        if module:
            yield module
            yield from (f"{module}.{name}" for name in re.findall(r"\w+", names))
