"""The files that belong to the program: templates, scripts, and the sources of the admin API's image.

They lie at the top of a checkout, and beside the code in an installed wheel.
"""

from functools import cache
from pathlib import Path

import citus_cluster
from citus_cluster.render.bundle import Sources

_PACKAGE = Path(citus_cluster.__file__).parent
_ROOT = _PACKAGE.parent
_DATA = _PACKAGE / "data"


def _folder(name: str) -> Path:
    packed = _DATA / name
    return packed if packed.is_dir() else _ROOT / name


def _texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()) if path.is_file()}


@cache
def load_sources() -> Sources:
    """Read everything that a bundle is rendered from."""
    return Sources(
        compose=_texts(_folder("compose_templates")),
        config=_texts(_folder("config")),
        initdb=_texts(_folder("initdb")),
        api_context=_api_context(),
    )


def _api_context() -> dict[str, str]:
    api = _ROOT / "admin_api"
    packed_constraints = _DATA / "constraints.txt"
    constraints = packed_constraints if packed_constraints.is_file() else _ROOT / "constraints.txt"
    context = {
        "Dockerfile": (api / "Dockerfile").read_text(encoding="utf-8"),
        "constraints.txt": constraints.read_text(encoding="utf-8"),
    }
    for package in (_PACKAGE, api):
        for path in sorted(package.rglob("*.py")):
            relative = path.relative_to(_ROOT).as_posix()
            context[relative] = path.read_text(encoding="utf-8")
    return context
