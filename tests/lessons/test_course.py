"""The parts that all lessons share: the list, the runner, the servers' addresses, the table of checks."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from setup_support import ROOT

from lessons import __main__ as course
from lessons import check as checks
from lessons.catalogue import HERE, Script, UnknownNameError, unit, units
from lessons.check import Check, Lab, Seen, all_checks, free_port
from lessons.cluster import LessonsError, Servers

LABS = [lab for one in units() for lab in one.labs]
ALLOWED = {"redis", "psycopg", *sys.stdlib_module_names}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    return subprocess.run(
        [sys.executable, "-m", "lessons", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), "CLUSTER_DIR": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_lab_is_one_screen_with_its_own_imports(lab: Script) -> None:
    assert set(imported(lab.path)) <= ALLOWED
    assert lab.summary.endswith("."), "the first line of the docstring is the lab's line in the list"
    lines = [line for line in lab.path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 75, f"{len(lines)} lines that are not empty"
    assert not re.search(r"flushdb|flushall", lab.path.read_text(encoding="utf-8"), re.IGNORECASE)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_lab_says_how_it_is_used(lab: Script) -> None:
    done = subprocess.run([sys.executable, str(lab.path), "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_names_of_scripts_are_unique() -> None:
    """mypy sees each as a module without a package."""
    names = [path.stem for path in HERE.glob("[0-9][0-9]-*/*.py")]
    assert sorted(names) == sorted(set(names))


def test_mypy_knows_the_folder_of_each_lesson() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for one in units():
        assert one.is_project or f"/lessons/{one.folder.name}" in text


def test_make_up_does_not_install_the_packages_of_the_lessons() -> None:
    done = subprocess.run(["make", "-n", "-B", "up"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "./examples[" in done.stdout
    assert "lessons" not in done.stdout


def test_list_shows_every_lab() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    for lab in LABS:
        assert re.search(rf"\b{lab.name}\b", done.stdout)


def test_an_unknown_lesson_or_lab_lists_those_that_exist() -> None:
    done = run("99")
    assert (done.returncode, "Known are: 1" in done.stderr) == (2, True)
    done = run("1", "nothing")
    assert (done.returncode, "server" in done.stderr) == (2, True)
    done = run("1")
    assert (done.returncode, "server" in done.stderr) == (2, True)
    with pytest.raises(UnknownNameError):
        unit("nothing")


def test_a_lesson_has_several_names() -> None:
    assert unit("1") == unit("01") == unit("01-capacity")


def test_run_is_exactly_the_script() -> None:
    done = run("1", "server", "--port", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: server.py")


def test_env_without_a_cluster_says_what_to_do() -> None:
    done = run("env")
    assert (done.returncode, "make up" in done.stderr, done.stdout) == (1, True, "")


def directory_of(tmp_path: Path, *, role: bool) -> Path:
    (tmp_path / "generated/secrets/roles").mkdir(parents=True)
    (tmp_path / ".env").write_text("REDIS_PORT=1\nCITUS_COORDINATOR_PORT=2\nPOSTGRES_DB=my db\n")
    (tmp_path / "generated/secrets/redis_password").write_text("a/b\n")
    if role:
        (tmp_path / "generated/secrets/roles/lessons_password").write_text("c@d\n")
    return tmp_path


def test_the_addresses_come_from_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lessons.cluster._claim", lambda url: None)
    servers = Servers({"CLUSTER_DIR": str(directory_of(tmp_path, role=True))})
    assert servers.variables() == {
        "REDIS_URL": "redis://:a%2Fb@127.0.0.1:1/15",
        "DATABASE_URL": "postgresql://lessons:c%40d@127.0.0.1:2/my%20db",
    }
    assert servers.variables(()) == {}


def test_variables_win_over_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lessons.cluster._claim", lambda url: None)
    given = {"REDIS_URL": "redis://elsewhere", "DATABASE_URL": "postgresql://elsewhere"}
    assert Servers({"CLUSTER_DIR": str(directory_of(tmp_path, role=False)), **given}).variables() == given


def test_a_role_that_cannot_be_created_says_why(tmp_path: Path) -> None:
    servers = Servers({**os.environ, "CLUSTER_DIR": str(directory_of(tmp_path, role=False))}, report=lambda text: None)
    with pytest.raises(LessonsError, match="CREATE SCHEMA"):
        _ = servers.database_url


def test_a_script_runs_while_its_servers_are_away(tmp_path: Path) -> None:
    """Lesson 7 shows what a health check says then, and a project may not need them."""
    said: list[str] = []
    directory = directory_of(tmp_path, role=False)
    servers = Servers({**os.environ, "CLUSTER_DIR": str(directory)}, report=said.append)
    assert servers.variables_at_hand(("redis", "postgresql")) == {"REDIS_URL": "redis://:a%2Fb@127.0.0.1:1/15"}
    assert "Redis does not answer" in said[0]
    assert "CREATE SCHEMA" in said[-1]


def test_a_lab_without_a_cluster_says_so_and_uses_its_default() -> None:
    done = run("2", "expiry", "--help")
    assert done.returncode == 0
    assert "REDIS_URL is not set, and there is no cluster here that provides it." in done.stderr


def test_redis_that_does_not_answer_is_named() -> None:
    with pytest.raises(LessonsError, match="Redis does not answer"):
        _ = Servers({"REDIS_URL": f"redis://127.0.0.1:{free_port()}/15"}).redis_url
    with pytest.raises(LessonsError, match="not a URL of Redis"):
        _ = Servers({"REDIS_URL": "nonsense"}).redis_url


def declared(function: object, *needs: str) -> Check:
    return Check("E0-00", "1", needs, "1", "made", "A step.", function)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("check", "status", "last"),
    [
        (declared(lambda lab: Seen(True, "1")), 0, "1 passed, 0 failed, 0 not run"),
        (declared(lambda lab: Seen(False, "2")), 1, "0 passed, 1 failed, 0 not run"),
        (declared(lambda lab: lab.run("server.py", "--port", "x")), 1, "0 passed, 1 failed, 0 not run"),
        (declared(lambda lab: Seen(1 / 0 > 1, "a mistake")), 1, "0 passed, 1 failed, 0 not run"),
        (declared(lambda lab: Seen(True, "1"), "no-such-command"), 0, "0 passed, 0 failed, 1 not run"),
    ],
    ids=["passed", "failed", "raised", "mistaken", "not-run"],
)
def test_the_table_of_checks_tells_what_happened(
    check: Check, status: int, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(course, "all_checks", lambda: (check,))
    assert course.main(["check", "1"]) == status
    out = capsys.readouterr().out
    assert out.strip().endswith(last)
    assert "E0-00" in out


def test_a_check_needs_a_place_and_a_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(lab: Lab) -> Seen:
        return Seen(True, "")

    nameless.__module__ = "lessons.checks.lesson_1"
    with pytest.raises(AssertionError, match="docstring"):
        checks.check("E0-00", expected="")(nameless)


def test_every_check_belongs_to_a_lesson_or_project() -> None:
    for one in all_checks():
        assert unit(one.unit_key).key == one.unit_key


def test_a_port_in_use_is_told_without_a_traceback() -> None:
    lab = Lab(unit("1"), Servers({**os.environ}))
    with lab.server("server.py") as first:
        out = lab.run("server.py", "--port", first.port, status=1)
    assert out.startswith(f"Cannot listen on port {first.port}: Address already in use.")


def test_a_server_that_does_not_start_is_told_with_its_output() -> None:
    with (
        pytest.raises(AssertionError, match="invalid int value"),
        Lab(unit("1"), Servers({**os.environ})).server("server.py", "--port", "x"),
    ):
        pass
