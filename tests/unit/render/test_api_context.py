"""The build context of the admin API's image: three files, the same on every host, with what the API needs."""

import ast
import base64
import hashlib
import io
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from setup_support import ROOT, contents, plan, set_up

from citus_cluster import __version__
from citus_cluster.operations import directory
from citus_cluster.render.api_context import needed, render_api_context
from citus_cluster.render.wheel import make_wheel
from citus_cluster.runtime.store.resources import load_sources

FOLDER = "generated/admin-api"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ((name, content),) = [
        (path, file) for path, file in load_sources().contexts["admin-api"].items() if path.endswith(".whl")
    ]
    path = tmp_path_factory.mktemp("context") / name
    path.write_bytes(content)
    return path


def test_a_wheel_is_the_same_bytes_everywhere() -> None:
    """Under every Python and on every system: this digest was the same under Python 3.11 and 3.13."""
    files = {"b/two.py": b"TWO = 2\n", "a/__init__.py": b"", "a/one.py": "ONE = '…'\n".encode()}
    made, again = (
        make_wheel("some-thing", "1.2.0", requires=("other[more]", "third"), files=dict(order))
        for order in (files.items(), sorted(files.items()))
    )
    assert made == again
    assert hashlib.sha256(made).hexdigest() == "905e03179811a2941727293723379c079d565da5c8e065a01d7e93155b3cbe8d"


def test_the_wheel_is_one_by_the_specification(wheel: Path) -> None:
    name, version, _, tags = parse_wheel_filename(wheel.name)
    assert (name, str(version), [str(tag) for tag in tags]) == (
        "citus-cluster-admin-api",
        __version__,
        ["py3-none-any"],
    )
    with zipfile.ZipFile(wheel) as archive:
        files = {path: archive.read(path) for path in archive.namelist()}
    (record,) = [path for path in files if path.endswith(".dist-info/RECORD")]
    rows = [row.rsplit(",", 2) for row in files[record].decode().splitlines()]
    assert {row[0] for row in rows} == set(files)
    for path, digest, length in rows:
        expected = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).decode().rstrip("=")
        assert (digest, length) == (("", "") if path == record else (f"sha256={expected}", str(len(files[path]))))


def test_pip_installs_the_wheel(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(tmp_path)]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "admin_api/healthcheck.py").is_file()
    assert list((tmp_path / "admin_api/__pycache__").glob("app.*.pyc")), "its file system is read-only at run time"


def test_the_api_starts_from_the_wheel_alone(wheel: Path) -> None:
    code = (
        "import pkgutil, sys, admin_api.app, admin_api.__main__;"
        "ours = [name for name in sys.modules if name.split('.')[0] in {'admin_api', 'citus_cluster'}];"
        "assert {sys.modules[name].__file__.split('.whl/')[0] for name in ours} == {sys.path[0].removesuffix('.whl')};"
        "[__import__(one.name) for one in pkgutil.walk_packages(admin_api.__path__, 'admin_api.')];"
        "assert sys.modules['admin_api.examples'].read_examples()"
    )
    path = f"{wheel}:{sysconfig.get_path('purelib')}"
    command = [sys.executable, "-S", "-P", "-c", f"import sys; sys.path[:0] = {path.split(':')!r}; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def imports_of(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_wheel_holds_what_the_api_imports_and_nothing_else() -> None:
    """Also what a function imports when it runs; by the parser, where the program uses a pattern."""
    paths = [path for package in ("admin_api", "citus_cluster") for path in (ROOT / package).rglob("*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    waiting = [module for module in modules if module.startswith("admin_api")]
    expected = set()
    while waiting:
        module = waiting.pop()
        if module in modules and modules[module] not in expected:
            expected.add(modules[module])
            waiting += [module.rpartition(".")[0], *imports_of(sources[modules[module]])]
    assert needed(sources) == expected
    assert not [path for path in expected if path.startswith(("citus_cluster/cli", "citus_cluster/console"))]


@pytest.mark.parametrize(
    "line",
    [
        "from citus_cluster import other",
        "from citus_cluster.other import name",
        "from citus_cluster.other import (\n    name,\n    more,\n)",
        "from citus_cluster import (\n    more,\n    other,\n)",
        "    from citus_cluster.other import name  # when it is needed",
        "import citus_cluster.other",
        "import sys, citus_cluster.other as renamed",
    ],
)
def test_every_form_of_import_counts(line: str) -> None:
    sources = {
        "admin_api/__init__.py": "",
        "admin_api/app.py": f"import os\n{line}\nimport re\n",
        "citus_cluster/__init__.py": "",
        "citus_cluster/other.py": "import citus_cluster.third",
        "citus_cluster/third.py": "",
        "citus_cluster/more.py": "",
    }
    unneeded = set() if "import (\n    more" in line else {"citus_cluster/more.py"}
    assert needed(sources) == set(sources) - unneeded


def test_the_hash_of_the_context_follows_from_the_code(tmp_path: Path) -> None:
    sources = {"admin_api/__init__.py": "", "citus_cluster/cli.py": "one"}
    made = render_api_context("FROM {{ wheel }}\n", "", sources, version="1")
    assert render_api_context("FROM {{ wheel }}\n", "", sources | {"citus_cluster/cli.py": "two"}, version="1") == made
    assert render_api_context("FROM {{ wheel }}\n", "", sources | {"admin_api/__init__.py": "#"}, version="1") != made


def test_what_the_image_installs_is_declared_and_pinned(wheel: Path) -> None:
    declared = {
        canonicalize_name(Requirement(line).name): Requirement(line).extras
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    }
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for line in load_sources().contexts["admin-api"]["constraints.txt"].decode().splitlines()
        if "==" in line
    }
    with zipfile.ZipFile(io.BytesIO(wheel.read_bytes())) as archive:
        (metadata,) = [archive.read(path).decode() for path in archive.namelist() if path.endswith("/METADATA")]
    dockerfile = load_sources().contexts["admin-api"]["Dockerfile"].decode()
    lines = [line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert len(lines) > 3
    for requirement in map(Requirement, lines):
        assert declared[canonicalize_name(requirement.name)] == requirement.extras
        assert canonicalize_name(requirement.name) in pinned
        assert f'"{requirement}"' in dockerfile
    assert dockerfile.count(wheel.name) == 2


def test_a_set_up_writes_three_files_and_a_newer_version_leaves_no_wheel_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> set[str]:
        return {path.removeprefix(f"{FOLDER}/") for path in contents(tmp_path) if path.startswith(f"{FOLDER}/")}

    set_up(tmp_path)
    wheel = f"citus_cluster_admin_api-{__version__}-py3-none-any.whl"
    assert made() == {"Dockerfile", "constraints.txt", wheel}
    assert plan(tmp_path).nothing_to_do

    sources = load_sources()
    newer = {path.replace(__version__, "9.9.9"): content for path, content in sources.contexts["admin-api"].items()}
    monkeypatch.setattr(directory, "load_sources", lambda: replace(sources, contexts={"admin-api": newer}))
    assert set_up(tmp_path).replaced_edits == ()
    assert made() == {"Dockerfile", "constraints.txt", "citus_cluster_admin_api-9.9.9-py3-none-any.whl"}
