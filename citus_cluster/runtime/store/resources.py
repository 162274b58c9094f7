"""The files that belong to the program: templates, scripts, and the code of the admin API's image.

They are at the top of a checkout, and next to the code in an installed wheel.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import citus_cluster
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.components.admin_api import ADMIN_API
from citus_cluster.render.api_context import render_api_context
from citus_cluster.render.bundle import Sources

_PACKAGE = Path(citus_cluster.__file__).parent
_ROOT = _PACKAGE.parent
_DATA = _PACKAGE / "data"
_SHARED = "service_kit"
"""The package that all examples import."""
_RUN = {".py", ".html"}
"""Endings of the files that an example runs."""


def _folder(name: str) -> Path:
    packed = _DATA / name
    return packed if packed.is_dir() else _ROOT / name


def _texts(folder: Path) -> dict[str, str]:
    """Return the texts of a folder and of the folders below, by path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


@cache
def load_sources() -> Sources:
    """Read all sources of a bundle."""
    return Sources(
        compose=_texts(_folder("compose_templates")),
        config=_texts(_folder("config")),
        initdb=_texts(_folder("initdb")),
        contexts={
            component.context: _api_context() if component is ADMIN_API else _example_context(component.context)
            for component in COMPONENTS.values()
            if component.context
        },
    )


def _example_context(path: str) -> dict[str, bytes]:
    """Read the build context of an example, by path: its package, and what it shares with the others beside it."""
    package = _folder(path)
    beside = package.parent
    files = [beside / "pyproject.toml", beside / "constraints.txt"]
    files += (file for folder in (beside / _SHARED, package) for file in _files(folder))
    found = {file.relative_to(beside).as_posix(): file.read_bytes() for file in files}
    return {"Dockerfile": found.pop(f"{package.name}/Dockerfile"), **found}


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files that run; not the tests, and not what Python has compiled there."""
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if (
            path.is_file()
            and (path.suffix in _RUN or path.name == "Dockerfile")
            and not {"tests", "__pycache__"} & {*inner.parts}
        ):
            yield path


def _api_context() -> dict[str, bytes]:
    api = _ROOT / "admin_api"
    constraints = _DATA / "constraints.txt"
    return render_api_context(
        (api / "Dockerfile").read_text(encoding="utf-8"),
        (constraints if constraints.is_file() else _ROOT / "constraints.txt").read_text(encoding="utf-8"),
        {
            path.relative_to(_ROOT).as_posix(): path.read_text(encoding="utf-8")
            for package in (_PACKAGE, api)
            for path in package.rglob("*.py")
        },
        version=citus_cluster.__version__,
        data={
            path.relative_to(_ROOT).as_posix(): path.read_bytes()
            for path in (
                api / "examples.json",
                *sorted((api / "pages" / "templates").rglob("*")),
                *sorted((api / "pages" / "static").rglob("*")),
            )
            if path.is_file()
        },
    )
