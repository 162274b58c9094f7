"""The layers of docs/architecture.md, read from the imports in the source."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from setup_support import ROOT

from citus_cluster.model.components import COMPONENTS

CORE = ["errors", "model", "render", "runtime", "operations"]
EDGE = "the edge"
FILES = sorted((ROOT / "citus_cluster").rglob("*.py")) + sorted((ROOT / "admin_api").rglob("*.py"))
IMPURE_MODULES = {
    "asyncio",
    "docker",
    "fcntl",
    "io",
    "os",
    "pathlib",
    "psycopg",
    "random",
    "requests",
    "secrets",
    "shutil",
    "socket",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
}
# ruamel.yaml and zipfile write to a stream, so they get one in memory.
ALLOWED = {
    ("citus_cluster/render/spec_file.py", "io"),
    ("citus_cluster/render/wheel.py", "io"),
    ("citus_cluster/model/names.py", "urllib"),  # only urllib.parse
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def layer_of(module: str) -> str | None:
    """Layer of one of our modules; None for one that is not ours, or is the bare package."""
    package, _, rest = module.partition(".")
    if package == "admin_api":
        return EDGE
    if package != "citus_cluster" or not rest:
        return None
    first = rest.split(".")[0]
    return first if first in CORE else EDGE


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            assert node.module
            yield node.module
            if (ROOT / node.module.replace(".", "/")).is_dir():
                yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__")


def rank(layer: str) -> int:
    return CORE.index(layer) if layer in CORE else len(CORE)


def test_imports_run_one_way() -> None:
    upwards = []
    for path in FILES:
        own = layer_of(module_of(path))
        for module in imports_of(path):
            layer = layer_of(module)
            # The bare package, which everything imports, imports nothing of ours.
            if layer is not None and (own is None or rank(layer) > rank(own)):
                upwards.append(f"{name_of(path)} imports {module}")
    assert upwards == []


def test_examples_and_lessons_import_nothing_of_ours() -> None:
    """People copy them out of this project, or read them without it."""
    for path in [*(ROOT / "examples").rglob("*.py"), *(ROOT / "lessons").rglob("*.py")]:
        for node in nodes_of(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] in ("citus_cluster", "admin_api")], name_of(path)


def in_circles(below: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph of imports when whatever imports nothing that is left is taken away, again and again."""
    left = dict(below)
    while leaves := [name for name, found in left.items() if not found & left.keys()]:
        for name in leaves:
            del left[name]
    return left


def test_no_module_imports_itself_by_way_of_others() -> None:
    """A circle between modules of one layer, which the layers alone do not forbid."""
    modules = {module_of(path): path for path in FILES}
    assert in_circles({name: set(imports_of(path)) & modules.keys() for name, path in modules.items()}) == {}


def room_of(module: str) -> str:
    """The module itself where it lies beside the packages of its layer, else its package."""
    return ".".join(module.split(".")[:3])


def test_no_package_imports_itself_by_way_of_others() -> None:
    """As ``operations.start`` and ``operations.status`` would, if each used a module of the other."""
    modules = {module_of(path): path for path in FILES if name_of(path).startswith("citus_cluster/")}
    below: dict[str, set[str]] = {}
    for name, path in modules.items():
        if layer_of(name) in CORE:
            imported = {
                room_of(module) for module in set(imports_of(path)) & modules.keys() if layer_of(module) in CORE
            }
            below.setdefault(room_of(name), set()).update(imported - {room_of(name)})
    assert in_circles(below) == {}


def test_the_edges_do_not_import_each_other() -> None:
    for path in FILES:
        of_api = name_of(path).startswith("admin_api/")
        modules = [module for module in imports_of(path) if layer_of(module) == EDGE]
        other = "citus_cluster" if of_api else "admin_api"
        assert not [module for module in modules if module.startswith(other)], name_of(path)


def test_one_door_to_docker_and_one_to_postgresql() -> None:
    for path in FILES:
        check_doors(path, name_of(path))


def check_doors(path: Path, name: str) -> None:
    packages = {module.split(".")[0] for module in imports_of(path)}
    assert "docker" not in packages or name == "citus_cluster/runtime/docker/engine.py", name
    if "psycopg" in packages and not name.startswith(("citus_cluster/runtime/", "admin_api/")):
        # An operation may tell one failure from another; it sends no SQL.
        assert name.startswith("citus_cluster/operations/")
        used = [node for node in nodes_of(path) if isinstance(node, ast.Attribute)]
        of_driver = {node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == "psycopg"}
        assert {word for word in of_driver if not word.endswith("Error")} <= {"errors"}, name
        assert not {"execute", "executemany", "cursor"} & {node.attr for node in used}, name
    if "subprocess" in packages:
        assert name.startswith("citus_cluster/runtime/")
    if packages & {"typer", "rich", "click"}:
        assert name.startswith(("citus_cluster/cli/", "citus_cluster/console/"))
    if packages & {"fastapi", "starlette", "uvicorn"}:
        assert name.startswith("admin_api/")


PURE = [path for path in FILES if name_of(path).startswith(("citus_cluster/model/", "citus_cluster/render/"))]


def test_model_and_render_touch_no_file_socket_clock_or_random_source() -> None:
    for path in PURE:
        packages = {module.split(".")[0] for module in imports_of(path)}
        impure = {package for package in packages & IMPURE_MODULES if (name_of(path), package) not in ALLOWED}
        assert impure == set(), name_of(path)
        calls = [node.func for node in nodes_of(path) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"open", "print", "input", "exec", "eval", "__import__"}, name_of(path)
        methods = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        forbidden = {"now", "utcnow", "today", "read_text", "write_text", "read_bytes", "write_bytes"}
        assert not methods & forbidden, name_of(path)


def test_the_check_sees_what_it_looks_for(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import os\nfrom citus_cluster import cli\ndef f():\n    from citus_cluster.runtime.store import files\n"
    )
    found = set(imports_of(file))
    assert {"os", "citus_cluster.cli", "citus_cluster.runtime.store.files"} <= found
    assert [layer_of(m) for m in ("citus_cluster.cli", "citus_cluster.runtime.store.files", "admin_api.app", "os")] == [
        EDGE,
        "runtime",
        EDGE,
        None,
    ]


# One component's name in code: an identifier with it, or a text that is the name of a component or of a service.
BESIDE_CITUS = {name: component for name, component in COMPONENTS.items() if component.companion}
COMPANION = re.compile("|".join(name.key for name in BESIDE_CITUS), re.IGNORECASE)
SERVICE_NAME = re.compile("|".join(f"{name}|{component.owns.pattern}" for name, component in BESIDE_CITUS.items()))
KNOWS_ONE = {
    "citus_cluster/model/component_name.py": "their names",
    "citus_cluster/model/components/": "a module for each",
    "citus_cluster/model/spec.py": "typed keys of cluster.yaml",
    "citus_cluster/model/spec_reading.py": "values that contradict each other",
    "citus_cluster/model/images.py": "what an image's name tells of its product",
    "citus_cluster/model/pooling.py": "PgBouncer's pool and role",
    "citus_cluster/model/replication.py": "the pair",
    "citus_cluster/render/spec_file.py": "a comment for each key of cluster.yaml",
    "citus_cluster/render/api_context.py": "the drivers that the API needs",
    "citus_cluster/runtime/probes/": "how each is asked",
    "citus_cluster/runtime/accounts/": "how an application's account is made on each",
    "citus_cluster/runtime/cassandra.py": "connections to Cassandra",
    "citus_cluster/operations/pair/": "the pair",
    "citus_cluster/operations/preparation.py": "who needs something of the coordinator",
    "citus_cluster/operations/inspection.py": "who tells more where the engine is asked",
    "citus_cluster/operations/status/report.py": "cassandra_ring, a key of its JSON document",
    "citus_cluster/cli/": "an option for each key, the commands of the pair",
}


def named_in(path: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in nodes_of(path)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes_of(path):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                if COMPANION.search(name):
                    yield name
            case ast.Constant(value=str(text)) if id(node) not in docstrings and SERVICE_NAME.fullmatch(text):
                yield text


def test_one_component_is_named_only_where_it_is_declared() -> None:
    """Everything else loops over components, so that one more of them is one more module; see docs/architecture.md."""
    found = {
        name_of(path): sorted(set(named_in(path)))
        for path in FILES
        if not any(name_of(path).startswith(known) for known in KNOWS_ONE)
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_who_may_name_a_component_does() -> None:
    for known in KNOWS_ONE:
        assert any(list(named_in(path)) for path in FILES if name_of(path).startswith(known)), known
