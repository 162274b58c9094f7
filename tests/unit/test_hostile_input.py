"""What an environment, a directory, a password or a cluster.yaml may hold without doing harm."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from setup_support import attempt, contents, plan, set_up

from citus_cluster.errors import SpecError
from citus_cluster.runtime.store import secrets

SIZE = ("--workers=2", "--memory=15900", "--cpus=2")
CHANGING = (
    "generated/secrets/",
    "generated/journal.jsonl",
    "generated/manifest.json",
    "generated/config/redis/users.acl",
    "generated/config/admin-api/tokens.json",
)
"""What holds random values, hashes of them, or times."""

DIRECTORIES = (
    "with spaces",
    "trailing ",
    "quote's",
    'double"quote',
    "$HOME",
    "`id`",
    "$(id)",
    "a;b&c|d",
    "-rf",
    "#comment",
    "a:b",
    "back\\slash",
    "{{ 7 * 7 }}",
    "[glob]*?",
    "Übergröße 数据 😀",
    "x" * 200,
)
PASSWORDS = (
    "'; DROP TABLE users; --",
    '" OR ""="',
    "$(id) `id` ${HOME} $$",
    "{{ 7*7 }} {% raw %}",
    "%s %(x)s %% %41",
    "back\\slash\\",
    "# not: a [comment], {yaml: &a *b}",
    "=@:/?&#",
    " spaces at both ends ",
    "-----BEGIN PRIVATE KEY-----",
    "pä$$wörd 密码 🔑",
    "null",
    "x" * 900,
)
VALUES = (
    "x # y",
    "it's",
    "it''s",
    "a\\'b",
    "'",
    "\\",
    "$(id) ${HOME} `id`",
    "{{ 7*7 }} {% include 'x' %}",
    "%s %41",
    "include 'other.conf'",
)
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


def lasting(root: Path) -> dict[str, bytes]:
    return {path: content for path, content in contents(root).items() if not path.startswith(CHANGING)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster in a directory, and an environment, of no special kind."""
    root = tmp_path_factory.mktemp("plain")
    done = attempt(root, *SIZE)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("name", DIRECTORIES)
def test_the_name_of_a_directory_changes_nothing(tmp_path: Path, plain: Path, name: str) -> None:
    root = tmp_path / name
    set_up(root, {"workers": 2})
    assert lasting(root) == lasting(plain)


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        {"LC_ALL": "no_SUCH", "PYTHONIOENCODING": "ascii", "TZ": "Mars/Base"},
        {"LC_ALL": "", "LANG": "", "HOME": "/nonexistent", "TERM": "dumb", "COLUMNS": "1"},
    ],
)
def test_locales_and_odd_environments_change_nothing(tmp_path: Path, plain: Path, variables: dict[str, str]) -> None:
    done = attempt(tmp_path, *SIZE, before=None, **variables)
    assert done.returncode == 0, done.stderr
    assert lasting(tmp_path) == lasting(plain)


@pytest.mark.parametrize("mask", ["000", "077", "027"])
def test_the_umask_changes_no_mode(tmp_path: Path, plain: Path, mask: str) -> None:
    command = (
        f"umask {mask}; exec {sys.executable} setup_citus_cluster.py --output-dir={tmp_path}/made {' '.join(SIZE)}"
    )
    root = Path(__file__).parents[2]
    subprocess.run(
        ["sh", "-c", command],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )

    def modes(of: Path) -> dict[str, int]:
        return {path.relative_to(of).as_posix(): path.stat().st_mode for path in of.rglob("*")}

    assert modes(tmp_path / "made") == modes(plain)


@pytest.mark.parametrize("password", PASSWORDS)
def test_any_password_is_kept_as_it_is_and_in_one_file_alone(tmp_path: Path, password: str) -> None:
    given, root = tmp_path / "given", tmp_path / "cluster"
    given.write_text(password)
    done = attempt(root, *SIZE, f"--password-file={given}")
    assert done.returncode == 0, done.stderr
    assert (root / secrets.SUPERUSER_PASSWORD).read_text() == password
    others = {path: text for path, text in contents(root).items() if path != secrets.SUPERUSER_PASSWORD}
    if len(password) > 4:  # "null" is in many a file
        assert not [path for path, text in others.items() if password.encode() in text]
        assert password not in done.stdout + done.stderr
    assert plan(root).nothing_to_do


@pytest.mark.parametrize("value", VALUES)
def test_a_setting_stays_inside_its_own_line(tmp_path: Path, value: str) -> None:
    set_up(tmp_path, {"workers": 2})
    plain = (tmp_path / "generated/config/worker/postgresql.conf").read_text().splitlines()
    set_up(tmp_path, {"settings.worker": {"cluster_name": value}})
    changed = (tmp_path / "generated/config/worker/postgresql.conf").read_text().splitlines()
    more = [line for line in changed if line not in plain]
    quoted = "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
    assert [line for line in more if line and not line.startswith("#")] == [f"cluster_name = {quoted}"]


@pytest.mark.parametrize("value", ["4MB\nfsync = off", "4MB\rfsync = off", "4MB\r\nfsync = off", "4MB\x00", "\x1b[2J"])
def test_a_setting_of_several_lines_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SpecError, match="problem") as refused:
        set_up(tmp_path, {"settings.worker": {"cluster_name": value}})
    assert re.search("line break or another control character", "\n".join(refused.value.details))
    assert not (tmp_path / "docker-compose.yml").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{BOMB}settings: {{worker: *a11}}", "line 6: the alias *a3 expands the file to more than 100000 values"),
        ("settings: &all {worker: *all}", "line 2: the alias *all refers to itself"),
    ],
)
def test_aliases_that_grow_without_end_are_refused_at_once(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "cluster.yaml").write_text(f"apiVersion: citus-cluster/v1\n{text}\n")
    done = attempt(tmp_path, *SIZE)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_aliases_that_save_writing_are_taken(tmp_path: Path) -> None:
    text = "settings: {coordinator: &same {work_mem: 5MB}, worker: *same}"
    (tmp_path / "cluster.yaml").write_text(f"apiVersion: citus-cluster/v1\n{text}\n")
    done = attempt(tmp_path, *SIZE)
    assert done.returncode == 0, done.stderr
    assert "work_mem = 5MB" in (tmp_path / "generated/config/worker/postgresql.conf").read_text()
