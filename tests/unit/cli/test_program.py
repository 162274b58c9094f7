"""The set-up's command line. Most runs are in this process; those that need a real one are few, since each costs
the start of an interpreter."""

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from setup_support import ROOT, contents
from terminal import on_terminal

from citus_cluster.cli.program import main, setup_main
from citus_cluster.cli.program import run as run_app
from citus_cluster.model.component_name import ALL

SCRIPT = ROOT / "setup_citus_cluster.py"
SIZE = ("--memory=7840", "--cpus=2", "--services=citus")
NO_ENGINE = "unix:///nowhere.sock"
ANSI = "\x1b["
NASTY = 'it\'s "q" $HOME ${X} $$ #no \\n `id` %s {{x}} [red]x[/] pässwörd 密码 🔑 end '


@dataclass
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the set-up in this process, in ``tmp_path``, without an engine, and without a terminal."""
    for name in [name for name in os.environ if name.startswith("CITUS_CLUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    monkeypatch.chdir(tmp_path)

    def execute(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["setup_citus_cluster.py", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            setup_main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert "internal error" not in printed.err
        assert ANSI not in printed.out + printed.err
        return Result(int(ended.value.code or 0), printed.out, printed.err)

    return execute


def clean_environment(**more: str) -> dict[str, str]:
    return {"DOCKER_HOST": NO_ENGINE, "PATH": "/nonexistent", "PYTHONIOENCODING": "utf-8", **more}


def process(*arguments: str, cwd: Path, python: tuple[str, ...] = (sys.executable,), **more: str) -> Result:
    """Run the real script, with next to nothing in the environment."""
    done = subprocess.run(
        [*python, str(SCRIPT), *arguments],
        cwd=cwd,
        env=clean_environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def spec_in(root: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))
    return data


def written(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.iterdir()]


# In a process of its own


def test_the_script_runs_without_docker_psql_or_any_environment(run: Run, tmp_path: Path) -> None:
    made = process("--workers=3", *SIZE, cwd=tmp_path)
    assert made.status == 0, made.err
    assert spec_in(tmp_path)["workers"] == 3
    assert "No Docker engine was asked" in made.err
    assert "psql is not installed" in made.err
    assert ANSI not in made.out + made.err
    again = run("--workers", "3")
    assert again.status == 0
    assert "Nothing to do" in again.out


def test_without_the_dependencies_it_says_in_one_line_what_to_run(tmp_path: Path) -> None:
    bare = process("--workers=3", cwd=tmp_path, python=(sys.executable, "-S", "-E"))
    assert bare.status == 1
    assert re.fullmatch(r"The Python package \w+ is not installed. Run 'make venv', .*\n", bare.err)
    assert written(tmp_path) == []


def answer(arguments: list[str], answers: list[tuple[str, str]], cwd: Path) -> tuple[int, str]:
    """Run the script on a terminal, and answer each prompt; return its status and all that it wrote."""
    screen = on_terminal(
        [sys.executable, str(SCRIPT), *arguments],
        columns=200,
        cwd=cwd,
        environment=clean_environment(TERM="xterm"),
        typed=[(prompt, f"{given}\n") for prompt, given in answers],
    )
    return screen.status, screen.raw


def test_the_guided_set_up_and_consent_on_a_terminal(tmp_path: Path) -> None:
    questions = [
        ("Workers", "1"),
        ("Services", ""),
        ("Port", "6000"),
        ("random one): ", "gu'ided"),
        ("Start the cluster now", "n"),
    ]
    status, seen = answer([], questions, tmp_path)
    assert status == 0, seen
    assert "gu'ided" not in seen
    spec = spec_in(tmp_path)
    assert (spec["workers"], spec["ports"]["citus"], spec["services"]) == (1, 6000, [*ALL])
    assert (tmp_path / "generated/secrets/superuser_password").read_text() == "gu'ided"

    before = contents(tmp_path)
    status, seen = answer(["--workers=2"], [("Write these changes?", "n")], tmp_path)
    assert status == 4
    assert "+  citus-worker2:" in seen
    assert contents(tmp_path) == before
    status, seen = answer(["--workers=2"], [("Write these changes?", "y")], tmp_path)
    assert status == 0, seen
    assert spec_in(tmp_path)["workers"] == 2


# Options


@pytest.mark.parametrize("arguments", [("--workers", "3", "--name", "shop"), ("--workers=3", "--name=shop")])
def test_both_ways_to_write_a_value(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run(*arguments, *SIZE).status == 0
    assert (spec_in(tmp_path)["workers"], spec_in(tmp_path)["name"]) == (3, "shop")


def test_every_option_has_its_variable_in_the_help(run: Run) -> None:
    text = " ".join(run("--help").out.split())
    for flag in (
        "--workers",
        "--port",
        "--pg14-port",
        "--admin-port",
        "--user",
        "--db",
        "--pass",
        "--password-file",
        "--name",
        "--services",
        "--citus-image",
        "--admin-api-image",
        "--pg-major",
        "--bind",
        "--advertise",
        "--memory",
        "--cpus",
        "--storage",
        "--workload",
        "--connections",
        "--no-prompt",
        "--yes",
        "--force",
        "--dry-run",
        "--format",
        "--up",
        "--timeout",
        "--spec",
        "--output-dir",
    ):
        variable = "CITUS_CLUSTER_" + flag.removeprefix("--").upper().replace("-", "_")
        assert re.search(rf"{flag} .*?env var: {variable}\b", text), flag
    assert "--with-coordinator / --no-coordinator" in text
    assert "CITUS_CLUSTER_WITH_COORDINATOR" in text


def test_variables_are_read_and_flags_win(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITUS_CLUSTER_WORKERS", "4")
    monkeypatch.setenv("CITUS_CLUSTER_NAME", "shop")
    monkeypatch.setenv("CITUS_CLUSTER_PASS", "from the environment")
    made = run("--name=store", *SIZE)
    assert made.status == 0
    assert "process list" not in made.err
    assert (spec_in(tmp_path)["workers"], spec_in(tmp_path)["name"]) == (4, "store")
    assert (tmp_path / "generated/secrets/superuser_password").read_text() == "from the environment"


def test_a_variable_for_a_workers_only_host(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITUS_CLUSTER_WITH_COORDINATOR", "false")
    monkeypatch.setenv("CITUS_CLUSTER_ADVERTISE", "db2")
    assert run(*SIZE).status == 0
    assert spec_in(tmp_path)["coordinator"] is False


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workers=three"], "--workers"),
        (["--workers=1.5"], "--workers"),
        (["--workers=-1"], "--workers: -1 is too small"),
        (["--workers=1001"], "--workers: 1001 is too large"),
        (["--workers=0", "--no-coordinator", "--advertise=db2"], "--workers"),
        (["--port=0"], "--port: 0 is too small"),
        (["--port=65536"], "--port: 65536 is too large"),
        (["--port=65535"], "citus-worker2 would get port 65537"),
        (["--admin-port=5435"], "citus-worker1 and admin-api would both get port 5435"),
        (["--pg14-port=0"], "--pg14-port"),
        (["--name=Shop"], "--name: 'Shop'"),
        (["--user=pg_x"], "--user: 'pg_x' is reserved"),
        (["--user=a b"], "--user: 'a b'"),
        (["--db=template1"], "--db: 'template1'"),
        (["--pass="], "the password is empty"),
        (["--pass=a\nb"], "line break"),
        (["--pass=a", "--password-file=b"], "cannot be combined"),
        (["--password-file=none"], "No such file"),
        (["--services="], "--services is empty"),
        (["--services=citus,nope"], "--services: 'nope' is not one of"),
        (["--services=admin-api"], "--services: admin-api requires Citus"),
        (["--services=citus", "--pg14-sync"], "--pg14-sync/--pg14-async: there is no replica to wait for"),
        (["--services=redis,casandra"], "--services: 'casandra' is not one of"),
        (["--services=pg14", "--pg14-image=citusdata/citus:13.2.0"], "is an image with Citus"),
        (["--services=pg14", "--pg14-image=postgres:17-bookworm"], "does not start on data of PostgreSQL 14"),
        (["--services=redis", "--redis-image=redis:6.2"], "is Redis 6"),
        (["--services=redis", "--redis-image=postgres:14"], "is an image of PostgreSQL"),
        (["--citus-image=postgres:17"], "use one of Citus"),
        (["--services=cassandra", "--cassandra-image=cassandra:4.1"], "is Cassandra 4"),
        (["--services=redis,cassandra", "--redis-port=9042"], "redis and cassandra would both get port 9042"),
        (["--services=cassandra", "--cassandra-nodes=0"], "--cassandra-nodes: 0 is too small"),
        (["--no-coordinator"], "--advertise"),
        (
            ["--no-coordinator", "--advertise=db2", "--services=citus,admin-api"],
            "--services: admin-api requires a coordinator",
        ),
        (["--advertise=localhost"], "--advertise: 'localhost'"),
        (["--bind=localhost"], "--bind: 'localhost' is not an IP address"),
        (["--citus-image=citus"], "--citus-image: 'citus' has no tag"),
        (["--citus-image=mine:1"], "--pg-major"),
        (["--memory=lots"], "--memory: 'lots'"),
        (["--memory=1g"], "--memory="),
        (["--cpus=0"], "--cpus: 0 is too small"),
        (["--cpus=two"], "--cpus: 'two'"),
        (["--storage=tape"], "--storage"),
        (["--workload=x"], "--workload"),
        (["--connections=1"], "--connections: 1 is too small"),
        (["--spec=none.yaml"], "none.yaml cannot be read"),
        (["--format=yaml"], "--format"),
        (["--timeout=0"], "--timeout"),
        (["--bogus"], "--bogus"),
        (["extra"], "extra"),
        (["--workers"], "--workers"),
    ],
)
def test_usage_errors_write_nothing(run: Run, tmp_path: Path, arguments: list[str], told: str) -> None:
    failed = run("--output-dir=new", *arguments)
    assert failed.status == 2
    assert failed.out == ""
    assert told in failed.err
    assert written(tmp_path) == []


def test_several_problems_are_told_at_once(run: Run) -> None:
    failed = run("--workers=5000", "--name=Shop", "--user=pg_x", "--bind=x", "--port=0", "--connections=1")
    assert failed.status == 2
    assert len(re.findall("^  - --", failed.err, re.MULTILINE)) == 6


# Consent and statuses


def test_statuses_of_dry_runs_and_of_changes_without_consent(run: Run, tmp_path: Path) -> None:
    assert run("--workers=2", "--dry-run", "--output-dir=new", *SIZE).status == 4
    assert written(tmp_path) == []
    assert run("--workers=2", *SIZE).status == 0
    assert run("--workers=2", "--dry-run").status == 0
    before = contents(tmp_path)
    refused = run("--workers=3")
    assert refused.status == 4
    assert "--yes" in refused.err
    assert "add       citus-worker3" in refused.out
    shown = run("--workers=3", "--dry-run")
    assert shown.status == 4
    assert "+workers: 3" in shown.out
    assert contents(tmp_path) == before
    assert run("--workers=3", "--yes").status == 0
    assert run("--workers=2").status == 2
    (tmp_path / "docker-compose.yml").write_text("mine")
    assert run("--workers=4", "--yes").status == 1
    assert run("--workers=4", "--force").status == 0
    assert (tmp_path / "docker-compose.yml.bak").read_text() == "mine"


def test_json_is_one_document_on_stdout(run: Run, tmp_path: Path) -> None:
    planned = json.loads(run("--dry-run", "--format=json", *SIZE).out)
    assert planned["would_change"] is True
    made = json.loads(run("--format=json", *SIZE).out)
    assert made["setup"]["files"] == planned["files"]
    assert json.loads(run("--dry-run", "--format=json").out)["would_change"] is False
    failed = run("--format=json", "--name=BAD")
    assert failed.status == 2
    error = json.loads(failed.out)["error"]
    assert (error["code"], error["exit_status"]) == ("invalid-spec", 2)
    assert run("--format=json", "--workers=3").status == 4
    assert spec_in(tmp_path)["workers"] == 2


def test_a_first_run_counts_its_files_and_a_dry_run_names_them(run: Run) -> None:
    named = [line for line in run("--dry-run", "--memory=7840", "--cpus=2").out.splitlines() if "create  " in line]
    assert len(named) > 20
    made = run("--memory=7840", "--cpus=2")
    lines = [line.split(maxsplit=1)[1] for line in made.out.splitlines() if "create  " in line]
    assert set(lines[:-1]) == {"cluster.yaml", ".env", ".gitignore", "docker-compose.yml"}
    assert re.fullmatch(r"generated/ \(\d+ files: admin-api, config, secrets\)", lines[-1])


def test_one_file_is_counted_as_one(run: Run, tmp_path: Path) -> None:
    assert run(*SIZE).status == 0
    (tmp_path / ".env").unlink()
    assert "Wrote 1 file." in run("--yes").err


# Passwords


def test_an_odd_password_lands_exactly_and_shows_nowhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(NASTY + "\n", encoding="utf-8")
    printed = [run("--password-file=password", "--output-dir=made", *SIZE)]
    printed += [
        run("--password-file=password", "--output-dir=made", "--workers=4", "--yes", f"--format={form}")
        for form in ("text", "json")
    ]
    assert [result.status for result in printed] == [0, 0, 0]
    assert (tmp_path / "made/generated/secrets/superuser_password").read_bytes() == NASTY.encode()
    for result in printed:
        assert "it's" not in result.out + result.err
    for path, content in contents(tmp_path / "made").items():
        assert path == "generated/secrets/superuser_password" or "密码".encode() not in content


@pytest.mark.parametrize("argument", [["--pass", "the$secret"], ["--pass=the$secret"]])
def test_a_password_on_the_command_line_is_warned_of_and_not_recorded(
    run: Run, tmp_path: Path, argument: list[str]
) -> None:
    made = run(*argument, *SIZE)
    assert made.status == 0
    assert "process list" in made.err
    assert "the$secret" not in made.out + made.err
    found = contents(tmp_path)
    assert [path for path, content in found.items() if b"the$secret" in content] == [
        "generated/secrets/superuser_password"
    ]
    (line,) = found["generated/journal.jsonl"].splitlines()
    assert any("***" in word for word in json.loads(line)["by"]["arguments"])
    wrong = run("--pass=another$secret")
    assert wrong.status == 2
    assert "secret" not in wrong.err.replace("generated/secrets", "")


def test_a_password_that_is_refused_is_not_repeated(run: Run, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"se\0cret-part")
    failed = run("--password-file=password")
    assert failed.status == 2
    assert "cret-part" not in failed.err
    assert written(tmp_path) == ["password"]


def test_the_commands_to_go_on_with_are_printed(run: Run) -> None:
    assert "docker compose up -d --wait" in run(*SIZE).out


def test_an_interruption_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["citus-cluster"])
    with pytest.raises(SystemExit) as ended:
        run_app(typer.main.get_command(app), "citus-cluster")
    assert ended.value.code == 130
    assert "Interrupted. Nothing is lost. To continue, run the command again." in capsys.readouterr().err


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run ``citus-cluster`` in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def execute(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["citus-cluster", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Result(int(ended.value.code or 0), printed.out, printed.err)

    return execute


@pytest.mark.parametrize(
    ("arguments", "complaint", "place"),
    [
        (["nodes", "drain"], "Missing argument 'NAME'", "nodes drain"),
        (["nodes", "drain", "x", "--nope"], "No such option: --nope", "nodes drain"),
        (["nodes", "drain", "x", "--mode=foo"], "--mode: 'foo' is not one of 'auto', 'force_logical'", "nodes drain"),
        (["roles", "list", "--format", "foo"], "--format: 'foo' is not one of 'text', 'json'.", "roles list"),
        (["completion", "tcsh"], "SHELL: 'tcsh' is not one of 'bash', 'zsh', 'fish'.", "completion"),
        (["setup", "--workers=foo"], "--workers: 'foo' is not a whole number.", "setup"),
        (["status", "--watch", "--interval", "abc"], "--interval: 'abc' is not a number.", "status"),
        (["status", "--watch", "--interval", "0"], "--interval: 0 is too small; the minimum is 0.1.", "status"),
        (["up", "--timeout=1e9"], "is too large; the maximum is 86400", "up"),
    ],
)
def test_a_complaint_is_in_plain_words_and_names_the_commands_own_help(
    program: Run, arguments: list[str], complaint: str, place: str
) -> None:
    refused = program(*arguments)
    assert refused.status == 2
    assert complaint in refused.err
    assert f"citus-cluster {place} --help" in refused.err


def test_a_value_from_the_environment_is_blamed_on_its_variable(program: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITUS_CLUSTER_WORKERS", "many")
    assert "CITUS_CLUSTER_WORKERS: 'many' is not a whole number." in program("setup").err


@pytest.mark.parametrize(
    "command", [["setup"], ["nodes", "drain"], ["nodes", "remove"], ["roles", "create"], ["status"]]
)
def test_the_help_names_values_and_no_types(program: Run, command: list[str]) -> None:
    shown = program(*command, "--help").out
    assert "<" not in shown.replace("<=", "")
    assert "--format text|json" in shown


def test_one_worker_is_removed_at_a_time(program: Run) -> None:
    refused = program("nodes", "remove", "citus-worker3", "citus-worker4", "--yes")
    assert refused.status == 2
    assert "citus-cluster nodes remove citus-worker3; citus-cluster nodes remove citus-worker4" in refused.err


def test_a_missing_cluster_is_made_where_it_is_missing(program: Run, tmp_path: Path) -> None:
    assert "python setup_citus_cluster.py --workers=3. Or name" in program("status").err
    assert f"--workers=3 --output-dir {tmp_path / 'there'}." in program("status", "--dir", str(tmp_path / "there")).err


def test_an_advertised_address_of_another_machine_is_noted(run: Run) -> None:
    worker = ("--no-coordinator", "--workers=1", "--dry-run", *SIZE)
    assert "203.0.113.9 is not an address of this machine" in run("--advertise=203.0.113.9", *worker).err
    assert "is not an address of this machine" not in run("--advertise=db2.example.com", *worker).err


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--format=json", "--nope"],
        ["status", "--nope", "--format", "json"],
        ["statsu", "--format=json"],
        ["add-worker", "--port=x", "--host=y", "--format=json"],
        ["status", "--interval=x", "--format", "json"],
    ],
)
def test_a_complaint_of_the_parser_is_printed_in_the_format_that_was_asked_for(
    program: Run, arguments: list[str]
) -> None:
    refused = program(*arguments)
    assert (refused.status, json.loads(refused.out)["error"]["code"]) == (2, "usage")
    assert refused.err.startswith("Error: ")
    assert program("status", "--nope").out == "", "nothing of one run is left for the next"


@pytest.mark.parametrize("arguments", ["--debug roles list", "roles --debug list", "roles list --debug"])
def test_every_command_takes_debug(program: Run, arguments: str) -> None:
    assert "Traceback" in program(*arguments.split()).err
    assert "Traceback" not in program("roles", "list").err


def test_the_environment_asks_for_tracebacks_too(program: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITUS_CLUSTER_DEBUG", "true")
    assert "Traceback" in program("roles", "list").err


@pytest.mark.parametrize("command", ["status", "pg14 lag"])
@pytest.mark.parametrize("old", [["--watch", "5"], ["--watch=5"]])
def test_the_seconds_of_watch_have_an_option_of_their_own(program: Run, command: str, old: list[str]) -> None:
    refused = program(*command.split(), *old)
    assert refused.status == 2
    assert "--watch takes no value. Set the seconds between two refreshes with --interval" in refused.err
    alone = program(*command.split(), "--interval", "5")
    assert alone.status == 2
    assert "--interval requires --watch." in alone.err


def test_a_missing_package_is_named_when_a_command_needs_it(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ModuleNotFoundError('No module named psycopg', name='psycopg')")
    refused = subprocess.run(
        [sys.executable, "-m", "citus_cluster", "roles", "list"],
        cwd=tmp_path,
        env={"PATH": "/nonexistent", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 1
    assert "The Python package psycopg is not installed. Run 'make venv'" in refused.stderr


def test_only_the_parser_reads_the_arguments() -> None:
    """They are handed to it in one place; what a command wants to know of them is in the parser's context."""
    readers = [
        path.name
        for path in sorted((ROOT / "citus_cluster").rglob("*.py"))
        if any(
            isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    ]
    assert readers == ["program.py"]
