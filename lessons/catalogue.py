"""What is in the course, read from its folders: nothing here needs a change when a lab is added.

A lesson is a folder ``NN-name`` with a ``README.md``; its labs are the scripts in it, except ``figure_*.py``, which
draw its figures. A project is a package in ``projects``. A script's first docstring line says what it does.
"""

import ast
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parent
SERVER_VARIABLES = {"REDIS_URL": "redis", "DATABASE_URL": "postgresql"}
"""The variables by which labs find their servers, and what a check or a test calls the server."""


class UnknownNameError(Exception):
    """No lesson, project or lab has this name. The message lists those that exist."""


@dataclass(frozen=True)
class Script:
    """A lab: one file that runs by itself."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def summary(self) -> str:
        return _first_line(self.path)

    @property
    def needs(self) -> tuple[str, ...]:
        return _needs(self.path)

    def load(self) -> ModuleType:
        """Import the script without running it, for tests of its functions; the folder's name is no package name."""
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


@dataclass(frozen=True)
class Unit:
    """A lesson or a project. ``key`` is its number (``2``) or its package (``load_tester``)."""

    key: str
    folder: Path

    @property
    def title(self) -> str:
        readme = self.folder / "README.md"
        if not readme.is_file():
            return self.folder.name
        return readme.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")

    @property
    def is_project(self) -> bool:
        return not self.key.isdigit()

    @property
    def needs(self) -> tuple[str, ...]:
        """The servers of a project; each lab has its own."""
        found = {need for path in self.folder.rglob("*.py") for need in _needs(path)}
        return tuple(need for need in SERVER_VARIABLES.values() if need in found)

    @property
    def labs(self) -> tuple[Script, ...]:
        if self.is_project:
            return ()
        return tuple(Script(path) for path in sorted(self.folder.glob("*.py")) if path not in self.figures)

    @property
    def figures(self) -> tuple[Path, ...]:
        """The scripts that draw figures: ``figure_NAME.py``, with a name that is unique in the course."""
        return tuple(sorted(self.folder.glob("figure_*.py")))

    def lab(self, name: str) -> Script:
        """Return the lab ``name`` or ``name.py``. Raises UnknownNameError."""
        wanted = name.removesuffix(".py")
        for one in self.labs:
            if one.name == wanted:
                return one
        known = ", ".join(one.name for one in self.labs)
        raise UnknownNameError(f"Lesson {self.key} has no lab {name!r}. Its labs are: {known}.")


def units() -> tuple[Unit, ...]:
    """Return all lessons in their order, then the projects."""
    lessons = [Unit(str(int(path.name[:2])), path) for path in sorted(HERE.glob("[0-9][0-9]-*")) if path.is_dir()]
    projects = [Unit(path.parent.name, path.parent) for path in sorted((HERE / "projects").glob("*/__main__.py"))]
    return (*lessons, *projects)


def unit(key: str) -> Unit:
    """Return the lesson or project with this number, folder or package. Raises UnknownNameError."""
    wanted = str(int(key)) if key.isdigit() else key.replace("-", "_")
    for one in units():
        if wanted in (one.key, one.folder.name.replace("-", "_")):
            return one
    raise UnknownNameError(
        f"There is no lesson or project {key!r}. Known are: {', '.join(one.key for one in units())}."
    )


def _first_line(path: Path) -> str:
    documented = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return documented.partition("\n")[0]


def _needs(path: Path) -> tuple[str, ...]:
    text = path.read_text(encoding="utf-8")
    return tuple(need for variable, need in SERVER_VARIABLES.items() if re.search(rf"\b{variable}\b", text))
