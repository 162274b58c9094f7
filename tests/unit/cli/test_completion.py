"""Shell completion: each shell that is here runs its own script, and the program answers its Tabs."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parser_support import commands_of, parser_of
from setup_support import ROOT

from citus_cluster.cli import program
from citus_cluster.cli.completion import Shell, wanted_services
from citus_cluster.cli.tree import TREE
from citus_cluster.model.component_name import EXAMPLES

VARIABLE = "_CITUS_CLUSTER_COMPLETE"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path with the program on it, as an installation puts it there."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "citus-cluster").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m citus_cluster "$@"\n')
    (folder / "citus-cluster").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def scripts(path: str, tmp_path_factory: pytest.TempPathFactory) -> dict[Shell, Path]:
    """The scripts, as the program prints them."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in Shell:
        (folder / shell).write_text(run("citus-cluster", "completion", shell, cwd=folder, path=path))
    return {shell: folder / shell for shell in Shell}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A directory with two workers, a PostgreSQL 14 pair, one role, and a file whose name is a command."""
    names = ("citus-coordinator", "citus-worker1", "citus-worker2", "pg14-primary", "pg14-replica")
    services = "".join(f"  {name}:\n    image: x\n" for name in names)
    (tmp_path / "docker-compose.yml").write_text(
        f"services:\n{services}volumes:\n  citus-worker1-data:\n  pg14-role:\n"
    )
    folder = tmp_path / "generated/secrets/roles"
    folder.mkdir(parents=True)
    (folder / "app_password").touch()
    (folder / "$(touch pwned)_password").touch()
    (folder / "a b_password").touch()
    tokens = tmp_path / "generated/config/admin-api/named-tokens.json"
    tokens.parent.mkdir(parents=True)
    tokens.write_text('{"tokens": [{"name": "Grafana-2.x"}, {"name": "$(touch pwned)"}]}')
    return tmp_path


CASES = [
    (["ro"], {"roles"}),
    (["roles", ""], {"create", "list", "password", "drop"}),
    (["roles", "create", "x", "--acc"], {"--access"}),
    (["roles", "create", "x", "--access", ""], {"read", "write", "create"}),
    (["roles", "create", "x", "--access", "w"], {"write"}),
    (["roles", "drop", ""], {"app"}),
    (["tokens", ""], {"create", "list", "revoke"}),
    (["tokens", "revoke", ""], {"Grafana-2.x"}),
    (["tokens", "create", "x", "--role", ""], {"admin", "read"}),
    (["pg14", "promote", ""], {"pg14-primary", "pg14-replica"}),
    (["psql", "citus-w"], {"citus-worker1", "citus-worker2"}),
    (["logs", "--tail", "3", "citus"], {"citus-coordinator", "citus-worker1", "citus-worker2"}),
    (["logs", "citus-worker1", "pg"], {"pg14-primary", "pg14-replica"}),
    (["nodes", "add", "--host", ""], {"citus-worker1", "citus-worker2"}),
    (["--debug", "status", "--format", "j"], {"json"}),
    (["status", "--watch", "--f"], {"--format"}),
    (["status", "--watch", "--int"], {"--interval"}),
    (["setup", "--services", "re"], {"redis"}),
    (["setup", "--services", "citus,re"], {"citus,redis"}),
    (["setup", "--pg14-l"], {"--pg14-log"}),
    (["setup", "--storage", "nv"], {"nvme"}),
    (["setup", "--no-c"], {"--no-coordinator"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
]
# How bash hands --flag=value over, and how the others do.
ASSIGNED_IN_BASH = [
    (["roles", "create", "x", "--access", "=", "w"], {"write"}),
    (["roles", "create", "x", "--access", "="], {"read", "write", "create"}),
    (["status", "--format", "=", "json", "--w"], {"--watch"}),
]


def run(*command: str, cwd: Path, path: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path} | variables
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def need(program: str) -> str:
    return shutil.which(program) or pytest.skip(f"{program} is not installed")


def test_bash(scripts: dict[Shell, Path], cluster: Path, path: str) -> None:
    bash = need("bash")
    words = (
        'COMP_WORDS=(citus-cluster "$@"); COMP_CWORD=$#; _citus_cluster_completion citus-cluster; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    source = f"set -u; source {scripts[Shell.BASH]}"
    for typed, expected in [*CASES, *ASSIGNED_IN_BASH]:
        answer = run(bash, "--norc", "-c", f"{source}; {words}", "bash", *typed, cwd=cluster, path=path)
        assert set(answer.split()) == expected, typed
    registered = run(bash, "--norc", "-c", f"{source}; complete -p citus-cluster", cwd=cluster, path=path)
    assert registered == "complete -o default -F _citus_cluster_completion citus-cluster\n"
    assert not (cluster / "pwned").exists()


def test_names_are_those_of_the_directory_that_is_asked_for(
    scripts: dict[Shell, Path], cluster: Path, path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "docker-compose.yml").write_text("services: [")
    for given, expected in (([], ""), (["--dir", str(cluster)], "citus-worker1\ncitus-worker2\n")):
        words = ["citus-cluster", "psql", *given, "citus-w"]
        variables = {VARIABLE: "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
        assert run("citus-cluster", cwd=elsewhere, path=path, **variables).strip() == expected.strip()


def test_fish(scripts: dict[Shell, Path], cluster: Path, path: str) -> None:
    fish = need("fish")
    source = f"source {scripts[Shell.FISH]}; complete -C $argv[1]"
    for typed, expected in [*CASES, (["roles", "create", "x", "--access=w"], {"--access=write"})]:
        words = " ".join(["citus-cluster", *typed])
        answer = run(fish, "--no-config", "-c", source, words, cwd=cluster, path=path)
        assert {line.split("\t")[0] for line in answer.splitlines()} == expected, typed
    assert not (cluster / "pwned").exists()


class Terminal:
    """A shell on a terminal; what it writes is read without colours and cursor movements."""

    def __init__(self, *command: str, cwd: Path, path: str) -> None:
        self._end, other_end = pty.openpty()
        environment = os.environ | {"TERM": "dumb", "PATH": path, "PYTHONPATH": str(ROOT)}
        self._child = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            start_new_session=True,
        )
        os.close(other_end)

    def type(self, text: str, *, until: str) -> None:
        os.write(self._end, text.encode())
        seen = ""
        deadline = time.monotonic() + 30
        while until not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x07", "", seen):
            assert time.monotonic() < deadline, f"{text!r} gave {seen!r}"
            if select.select([self._end], [], [], 0.1)[0]:
                seen += os.read(self._end, 65536).decode(errors="replace")

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._end)


def test_zsh(scripts: dict[Shell, Path], cluster: Path, path: str) -> None:
    zsh = need("zsh")
    run(zsh, "-n", str(scripts[Shell.ZSH]), cwd=cluster, path=path)
    terminal = Terminal(zsh, "-f", "-i", cwd=cluster, path=path)
    try:
        terminal.type(f"PS1=; source {scripts[Shell.ZSH]}; print rea''dy\n", until="ready")
        for typed, completed in [
            ("ro", "roles "),
            ("roles create x --acc", "roles create x --access "),
            ("roles create x --access w", "roles create x --access write "),
            ("roles create x --access=w", "roles create x --access=write "),
            ("roles drop ", "roles drop app "),
            ("nodes add --host ", "nodes add --host citus-worker"),
            ("--debug status --format j", "--debug status --format json "),
            ("setup --services re", "setup --services redis "),
            ("completion ", "bash"),
        ]:
            terminal.type(f"citus-cluster {typed}\t", until=completed)
            terminal.type("\x15print clea''red\n", until="cleared")
    finally:
        terminal.close()
    assert not (cluster / "pwned").exists()


def test_zsh_answers_the_tab_that_loads_the_script(scripts: dict[Shell, Path], cluster: Path, path: str) -> None:
    zsh = need("zsh")
    (cluster / "functions").mkdir()
    shutil.copy(scripts[Shell.ZSH], cluster / "functions/_citus-cluster")
    terminal = Terminal(zsh, "-f", "-i", cwd=cluster, path=path)
    try:
        setup = "PS1=; fpath=(functions $fpath); autoload -Uz compinit && compinit -D; print rea''dy\n"
        terminal.type(setup, until="ready")
        terminal.type("citus-cluster reb\t", until="rebalance ")
    finally:
        terminal.close()


def test_there_is_no_script_for_another_shell(path: str, tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "citus_cluster", "completion", "tcsh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 2
    assert "bash" in refused.stderr


def test_services_are_completed_after_a_comma() -> None:
    assert wanted_services("a") == ["admin-api", "all"]
    assert wanted_services("redis,a") == ["redis,admin-api"]
    assert "redis,redis" not in wanted_services("redis,")
    assert wanted_services("all,") == [
        "all,pgbouncer",
        *(f"all,{name}" for name in EXAMPLES),
        "all,monitoring",
        "all,examples",
    ]
    assert "pgbouncer,all" in wanted_services("pgbouncer,")


def test_a_list_of_commands_says_what_their_own_help_says() -> None:
    """It imports none of them, so it has their first sentence of its own."""
    loaded = dict(commands_of(parser_of(program.main)))
    for name, part in TREE.items():
        assert " ".join(loaded[name].help.split()).startswith(part.summary), name


# What takes time to import; nothing of it is needed to say what there is.
HEAVY = {
    "pydantic",
    "psycopg",
    "docker",
    "jinja2",
    "asyncio",
    "citus_cluster.operations",
    "citus_cluster.runtime.docker.engine",
}


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--version"], {}),
        (["--help"], {}),
        ([], {VARIABLE: "complete_bash", "COMP_WORDS": "citus-cluster\nro", "COMP_CWORD": "1"}),
        ([], {VARIABLE: "complete_bash", "COMP_WORDS": "citus-cluster\nroles\ncreate\n--a", "COMP_CWORD": "3"}),
        ([], {VARIABLE: "complete_bash", "COMP_WORDS": "citus-cluster\npsql\nc", "COMP_CWORD": "2"}),
        ([], {VARIABLE: "complete_bash", "COMP_WORDS": "citus-cluster\nnodes\nadd\n--host\nc", "COMP_CWORD": "4"}),
    ],
)
def test_nothing_heavy_is_imported_for_an_answer(
    arguments: list[str], variables: dict[str, str], cluster: Path, path: str
) -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "citus_cluster", *arguments],
        cwd=cluster,
        env={"PYTHONPATH": str(ROOT), "PATH": path} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip()
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "typer" in imported
    assert HEAVY & imported == set()
