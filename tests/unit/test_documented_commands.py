"""Every command line in the documents is one that the program accepts: the real parser reads it, and nothing runs."""

import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parser_support import parser_of
from setup_support import ROOT
from typer.exceptions import TyperException

from citus_cluster.cli import program
from citus_cluster.cli.examples import EXAMPLES

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS: dict[str, Callable[[], None]] = {
    "citus-cluster": program.main,
    "python -m citus_cluster": program.main,
    "python setup_citus_cluster.py": program.setup_main,
    "python add_worker.py": program.add_worker_main,
}
# What the documents write where a user writes a value.
PLACEHOLDERS = {"SECONDS": "5", "NUMBER": "2"}
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
# A line ends at what the shell would take for its end; `a|b` without spaces stands for either word.
_COMMAND = re.compile(
    r"(?<![\w/-])("
    + "|".join(map(re.escape, PROGRAMS))
    + r")((?: +(?:\"[^\"]*\"|\$\([^)]*\)|[^\s;&<>#)\"|]|\\\||\|(?=\S))+)*)"
)


def written(text: str) -> Iterator[str]:
    """Pieces of code of a document, each on lines of its own."""
    yield from (found[1].replace("\\\n", " ") for found in _BLOCK.finditer(text))
    # A span of prose may go on in the next line.
    yield from (found[1].replace("\n", " ") for found in _SPAN.finditer(_BLOCK.sub("", text)))


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Program and arguments of each command in a document."""
    for code in written(text):
        yield from ((found[1], found[2].strip()) for found in _COMMAND.finditer(code))


def spelled_out(arguments: str) -> Iterator[list[str]]:
    """Each command that ``plan\\|start [--wait] NAME…`` stands for."""
    # Square brackets hold what may be left out, with and without it.
    parts = re.split(r"\[([^\]]+)\]", arguments)
    for optional in itertools.product(*(("", part) if index % 2 else (part,) for index, part in enumerate(parts))):
        words = [word.rstrip("…") for word in shlex.split("".join(optional).replace("\\|", "|"))]
        choices = [PLACEHOLDERS.get(word, word).split("|") for word in words if word]
        yield from (list(chosen) for chosen in itertools.product(*choices))


DOCUMENTED = sorted(
    {
        (path.name, program, " ".join(map(shlex.quote, one)))
        for path in DOCUMENTS
        for program, arguments in commands(path.read_text(encoding="utf-8"))
        for one in spelled_out(arguments)
    }
)


@pytest.fixture(scope="module")
def parsers() -> dict[str, Any]:
    """The parser of each program, with every command emptied."""
    made = {program: parser_of(main) for program, main in PROGRAMS.items()}
    for parser in made.values():
        empty(parser)
    return made


def empty(command: Any) -> None:
    below = getattr(command, "commands", {})
    for one in below.values():
        empty(one)
    if not below:
        command.callback = lambda **values: None


def parse(parser: Any, program: str, arguments: list[str]) -> None:
    """Have a command parsed. Raises what the parser complains of; a mere name, ``roles create``, is no complaint."""
    try:
        status = parser(args=arguments, prog_name=program, standalone_mode=False)
    except TyperException as complaint:
        mentioned = not any(word.startswith("-") for word in arguments)
        if mentioned and type(complaint).__name__ in {"MissingParameter", "NoArgsIsHelpError"}:
            return
        raise
    assert status in {None, 0}


def test_the_documents_are_read() -> None:
    found = {(program, arguments) for _, program, arguments in DOCUMENTED}
    assert len(found) > 60
    assert {
        ("citus-cluster", "pg14 lag --watch"),
        ("citus-cluster", "status --watch --interval 5"),
        ("citus-cluster", "rebalance stop"),
        ("citus-cluster", "nodes drain NAME --wait"),
        ("citus-cluster", "completion bash"),
        ("python add_worker.py", "--host citus-worker4 --port 5432 --rebalance --wait"),
    } <= found


@pytest.mark.parametrize(("document", "program", "arguments"), DOCUMENTED)
def test_a_documented_command_is_accepted(
    parsers: dict[str, Any],
    document: str,
    program: str,
    arguments: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    parse(parsers[program], program, shlex.split(arguments))


def test_every_command_has_examples(parsers: dict[str, Any]) -> None:
    assert set(leaves(parsers["citus-cluster"])) == set(EXAMPLES)


def leaves(command: Any, path: str = "") -> Iterator[str]:
    below = getattr(command, "commands", {})
    if not below:
        yield path
    for name, one in below.items():
        yield from leaves(one, f"{path} {name}".strip())


@pytest.mark.parametrize(("path", "example"), [(path, one) for path, found in EXAMPLES.items() for one in found])
def test_an_example_is_accepted(parsers: dict[str, Any], path: str, example: str) -> None:
    arguments = example.partition("citus-cluster ")[2].rstrip(')"') or example.partition(" <")[0]
    assert arguments.startswith(path)
    parse(parsers["citus-cluster"], "citus-cluster", shlex.split(arguments))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("pg14 lag --watch --interval soon", "number"),
        ("pg14 lag --watch 5", "unexpected extra argument"),
        ("pg14 lags", "lags"),
        ("status --wach", "--wach"),
        ("nodes add --yes", "yes"),
    ],
)
def test_a_wrong_command_would_be_noticed(parsers: dict[str, Any], arguments: str, complaint: str) -> None:
    with pytest.raises(TyperException) as refused:
        parse(parsers["citus-cluster"], "citus-cluster", arguments.split())
    assert complaint in refused.value.format_message()
