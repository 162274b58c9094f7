"""Shell completion: what the scripts know is what the parser knows, and each shell that is here runs its own."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parser_support import parser_of
from setup_support import ROOT

from citus_cluster.cli import completion, program
from citus_cluster.cli.completion import Shell


@pytest.fixture(scope="module")
def app() -> Any:
    """The whole program's parser."""
    return parser_of(program.main)


@pytest.fixture(scope="module")
def scripts(app: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[Shell, Path]:
    """The scripts, as the program prints them."""
    folder = tmp_path_factory.mktemp("scripts")
    commands = list(completion.read_commands(app))
    texts = {
        Shell.BASH: completion.bash(commands),
        Shell.ZSH: completion.zsh(commands),
        Shell.FISH: completion.fish(commands),
    }
    for shell, text in texts.items():
        (folder / shell).write_text(text)
    return {shell: folder / shell for shell in texts}


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
    return tmp_path


def commands_of(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from commands_of(below, f"{path} {name}")


def flags_of(command: Any) -> set[str]:
    return {
        flag
        for one in command.params
        if one.param_type_name == "option" and not one.hidden
        for flag in (*one.opts, *one.secondary_opts)
        if flag.startswith("--")
    }


def test_every_command_and_option_of_the_parser_is_known(app: Any, scripts: dict[Shell, Path]) -> None:
    texts = {shell: path.read_text() for shell, path in scripts.items()}
    found = dict(commands_of(app))
    assert {" setup", " status", " roles create", " rebalance start", " nodes add", " completion"} <= set(found)
    for path, command in found.items():
        (bash,) = [
            line
            for line in texts[Shell.BASH].splitlines()
            if line.strip().startswith(f"'{path}') values=") and "--help" in line
        ]
        (zsh,) = [
            line
            for line in texts[Shell.ZSH].splitlines()
            if line.strip().startswith(f"('{path}') values=") and "--help" in line
        ]
        fish = [line for line in texts[Shell.FISH].splitlines() if f"__citus_cluster_at \\'{path}\\''" in line]
        for flag in flags_of(command):
            assert flag in bash.replace("'", " ").split() or f"values={flag}" in bash, (path, flag)
            assert f"{flag}:" in zsh, (path, flag)
            assert any(f"-l {flag[2:]} " in line for line in fish), (path, flag)
        for name in getattr(command, "commands", {}):
            assert any(f" -a {name} " in line for line in fish), (path, name)


def test_a_flag_takes_a_value_everywhere_or_nowhere(app: Any) -> None:
    """The scripts skip the word after such a flag without looking at the command."""
    takes: dict[str, bool] = {}
    for command in completion.read_commands(app):
        for option in command.options:
            for flag in option.flags:
                assert takes.setdefault(flag, option.takes_value) == option.takes_value, flag


CASES = [
    (["ro"], {"roles"}),
    (["roles", ""], {"create", "list", "password", "drop"}),
    (["roles", "create", "x", "--acc"], {"--access"}),
    (["roles", "create", "x", "--access", ""], {"read", "write", "create"}),
    (["roles", "create", "x", "--access", "w"], {"write"}),
    (["roles", "drop", ""], {"app"}),
    (["pg14", "promote", ""], {"pg14-primary", "pg14-replica"}),
    (["psql", "citus-w"], {"citus-worker1", "citus-worker2"}),
    (["logs", "--tail", "3", "citus"], {"citus-coordinator", "citus-worker1", "citus-worker2"}),
    (["logs", "citus-worker1", "pg"], {"pg14-primary", "pg14-replica"}),
    (["nodes", "add", "--host", ""], {"citus-worker1", "citus-worker2"}),
    (["--debug", "status", "--format", "j"], {"json"}),
    (["status", "--watch", "--f"], {"--format"}),
    (["--dir", "up", "st"], {"status"}),
    (["setup", "--services", "re"], {"redis"}),
    (["setup", "--no-c"], {"--no-coordinator"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
]
# How bash hands --flag=value over, and how the others do.
ASSIGNED_IN_BASH = [
    (["roles", "create", "x", "--access", "=", "w"], {"write"}),
    (["roles", "create", "x", "--access", "="], {"read", "write", "create"}),
    (["status", "--format", "=", "json", "--w"], {"--watch"}),
]


def run(*command: str, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout


def need(program: str) -> str:
    return shutil.which(program) or pytest.skip(f"{program} is not installed")


def test_bash(scripts: dict[Shell, Path], cluster: Path) -> None:
    bash = need("bash")
    words = (
        'COMP_WORDS=(citus-cluster "$@"); COMP_CWORD=$#; _citus_cluster citus-cluster; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    program = f"set -u; source {scripts[Shell.BASH]}; {words}"
    for typed, expected in [*CASES, *ASSIGNED_IN_BASH]:
        assert set(run(bash, "--norc", "-c", program, "bash", *typed, cwd=cluster).split()) == expected, typed
    registered = run(bash, "--norc", "-c", f"source {scripts[Shell.BASH]}; complete -p citus-cluster", cwd=cluster)
    assert registered == "complete -o default -F _citus_cluster citus-cluster\n"
    assert not (cluster / "pwned").exists()


def test_fish(scripts: dict[Shell, Path], cluster: Path) -> None:
    fish = need("fish")
    program = f"source {scripts[Shell.FISH]}; complete -C $argv[1]"
    for typed, expected in [*CASES, (["roles", "create", "x", "--access=w"], {"--access=write"})]:
        answer = run(fish, "--no-config", "-c", program, " ".join(["citus-cluster", *typed]), cwd=cluster)
        assert {line.split("\t")[0] for line in answer.splitlines()} == expected, typed
    assert not (cluster / "pwned").exists()


class Terminal:
    """A shell on a terminal; what it writes is read without colours and cursor movements."""

    def __init__(self, *command: str, cwd: Path) -> None:
        self._end, other_end = pty.openpty()
        environment = os.environ | {"TERM": "dumb"}
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


def test_zsh(scripts: dict[Shell, Path], cluster: Path) -> None:
    zsh = need("zsh")
    run(zsh, "-n", str(scripts[Shell.ZSH]), cwd=cluster)
    terminal = Terminal(zsh, "-f", "-i", cwd=cluster)
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


def test_the_command_prints_the_script_and_names_the_shells(scripts: dict[Shell, Path], tmp_path: Path) -> None:
    program = (sys.executable, "-m", "citus_cluster", "completion")
    for shell, path in scripts.items():
        assert run(*program, shell, cwd=tmp_path) == path.read_text()
    refused = subprocess.run([*program, "tcsh"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "bash" in refused.stderr
