"""An installed wheel works outside the checkout, and writes the same bytes."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from setup_support import ROOT, contents

FLAGS = ["--workers=2", "--memory=7840", "--cpus=2", "--no-prompt", "--password-file"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with its own backend, without a network, and unpack it as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(command: list[str], cwd: Path, **environment: str) -> None:
    clean = {"PATH": os.environ["PATH"], "DOCKER_HOST": "unix:///nowhere.sock", **environment}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_what_it_needs_and_no_tests(installed: Path) -> None:
    names = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    for folder in ("compose_templates", "config", "initdb"):
        for source in (path for path in (ROOT / folder).rglob("*") if path.is_file()):
            assert f"citus_cluster/data/{source.relative_to(ROOT).as_posix()}" in names
    assert {"citus_cluster/data/constraints.txt", "admin_api/Dockerfile"} <= names
    assert not [name for name in names if name.startswith(("tests", "bench", "docs"))]
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "citus-cluster = citus_cluster.__main__:main" in entry_points.read_text()


def test_the_wheel_writes_what_the_checkout_writes(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("the same for both")
    # Only the wheel and the dependencies: not the checkout, which a development install puts on the path.
    dependencies = tmp_path / "dependencies"
    dependencies.mkdir()
    ours = {"citus_cluster", "admin_api"}
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and entry.name not in ours:
            (dependencies / entry.name).symlink_to(entry)
    module = [sys.executable, "-S", "-P", "-m", "citus_cluster", "setup", "--output-dir"]
    path = f"{installed}{os.pathsep}{dependencies}"
    script = [sys.executable, str(ROOT / "setup_citus_cluster.py"), "--output-dir"]
    flags = [*FLAGS, str(tmp_path / "password")]
    run([*script, str(tmp_path / "checkout"), *flags], tmp_path)
    # Its tokens are random, and their hashes are written, so the other set-up begins with the same.
    shutil.copytree(tmp_path / "checkout/generated/secrets", tmp_path / "wheel/generated/secrets")
    run([*module, str(tmp_path / "wheel"), *flags], tmp_path, PYTHONPATH=path)
    made, expected = contents(tmp_path / "wheel"), contents(tmp_path / "checkout")
    for journal in ("generated/journal.jsonl",):
        made.pop(journal)
        expected.pop(journal)
    assert made == expected
