"""Images that are built here: each component has a build context, and so an image name, of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from setup_support import ROOT

from citus_cluster.console.plan import _file_lines
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS, context_of
from citus_cluster.model.plan.changes import Action, FileChange
from citus_cluster.model.spec import API_VERSION
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import resolve
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.render.bundle import render_bundle
from citus_cluster.runtime.store import resources
from citus_cluster.runtime.store.resources import load_sources

APPLICATION = {"Dockerfile": b"FROM python:3.13-slim\n", "app/main.py": b"app = None\n"}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one more component than the admin API build its image."""
    component = type(COMPONENTS[ComponentName.REDIS])
    monkeypatch.setattr(component, "context", "examples/users")
    monkeypatch.setattr(component, "image", lambda self, spec: None)


def bundle(application: dict[str, bytes], **data: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Give the services of the Compose file, and the files below generated/examples/."""
    spec = parse_spec({"apiVersion": API_VERSION, "services": ["citus", "redis", "admin-api"], **data})
    topology, _ = resolve(spec, memory_mb=8000, cpus=2, pg_major=17)
    sources = load_sources()
    sources = replace(sources, contexts={**sources.contexts, "examples/users": application})
    files = render_bundle(topology, sources, digests=dict.fromkeys(SECRETS, "0" * 64), gitignore=None)
    folder = "generated/examples/"
    examples = {path: file.content for path, file in files.items() if path.startswith(folder)}
    return load_yaml(files["docker-compose.yml"].content.decode(), "")["services"], examples


SECRETS = ("admin_api_token", "admin_api_read_token", "redis_password")


@pytest.mark.usefixtures("built")
def test_each_image_is_built_from_its_own_context() -> None:
    services, examples = bundle(APPLICATION)
    assert services["redis"]["build"] == {"context": "./generated/examples/users"}
    assert services["admin-api"]["build"] == {"context": "./generated/admin-api"}
    assert examples == {f"generated/examples/users/{path}": content for path, content in APPLICATION.items()}
    assert services["redis"]["image"].startswith("citus-cluster-redis:")


@pytest.mark.usefixtures("built")
def test_a_changed_context_renames_its_own_image_alone() -> None:
    before, _ = bundle(APPLICATION)
    after, _ = bundle({**APPLICATION, "app/main.py": b"app = 1\n"})
    assert before["redis"]["image"] != after["redis"]["image"]
    assert before["admin-api"]["image"] == after["admin-api"]["image"]


def test_a_context_is_read_from_the_folder_of_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: None
) -> None:
    """With what the examples share beside it, and without what does not run."""
    shared = {"pyproject.toml": b"[project]", "constraints.txt": b"", "service_kit/health.py": b"well = True"}
    own = {"users/main.py": b"app = None", "users/templates/page.html": b"<p>"}
    rest = {
        "users/tests/test_app.py": b"",
        "users/__pycache__/main.pyc": b"",
        "users/README.md": b"",
        "other/app.py": b"",
    }
    for path, content in {**shared, **own, **rest, "users/Dockerfile": b"FROM python"}.items():
        (tmp_path / "examples" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "examples" / path).write_bytes(content)
    monkeypatch.setattr(resources, "_folder", lambda name: tmp_path / name if name == "examples/users" else ROOT / name)
    contexts = resources.load_sources.__wrapped__().contexts
    assert contexts["examples/users"] == {"Dockerfile": b"FROM python", **shared, **own}
    assert "constraints.txt" in contexts["admin-api"]


def test_an_image_that_is_named_needs_no_context() -> None:
    services, examples = bundle(APPLICATION, images={"admin_api": "registry.example.org/api:1"})
    assert services["admin-api"]["image"] == "registry.example.org/api:1"
    assert [name for name, service in services.items() if "build" in service] == []
    assert examples == {}


@pytest.mark.usefixtures("built")
def test_a_plan_shows_each_context_in_one_line() -> None:
    paths = ["generated/admin-api/Dockerfile", "generated/examples/users/Dockerfile", "generated/config/redis/x"]
    changes = [FileChange(path, Action.CREATE, None, None) for path in [*paths, "generated/examples/users/app/main.py"]]
    assert list(_file_lines(changes, brief=False)) == [
        "create    generated/config/redis/x",
        "create    generated/admin-api/ (1 file, the build context of an image)",
        "create    generated/examples/users/ (2 files, the build context of an image)",
    ]
    assert context_of("generated/examples/users2/Dockerfile") is None
