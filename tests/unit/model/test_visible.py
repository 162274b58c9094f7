"""What comes from elsewhere is seen as it is: no terminal obeys it, no markup reads it, JSON loses nothing of it."""

import ast
import io
import json
import logging
import unicodedata
from collections.abc import Callable

import pytest
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from setup_support import ROOT

from citus_cluster.console import screen
from citus_cluster.console.cluster import print_status
from citus_cluster.console.pg14 import print_consequences
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.overview import NodeOverview, Overview, TableOverview
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus, RunningMove
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.model.visible import json_text, visible, visible_lines
from citus_cluster.operations.status.report import ServiceStatus, State, Status
from citus_cluster.runtime.log_lines import VisibleFormatter

EVERY = [chr(code) for code in range(0x110000)]
HIDDEN = [c for c in EVERY if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
NAME = "x\x1b]52;c;aGk=\x07\x9b31m\u202eevil\u2066\u200b\ud800\n✓ all is well\r[red]r[/] :bomb: [/] \\"
SEEN = r"x\x1b]52;c;aGk=\x07\x9b31m\u202eevil\u2066\u200b\ud800\n✓ all is well\r[red]r[/] :bomb: [/] " + "\\"


def a_screen(**options: object) -> tuple[screen.Screen, io.StringIO]:
    page = io.StringIO()
    return screen.Screen(file=page, width=400, **options), page


def test_every_hidden_character_is_replaced_and_no_other() -> None:
    assert {
        "\x00",
        "\x1b",
        "\x7f",
        "\x9b",
        "\xad",
        "\u200b",
        "\u202e",
        "\u2028",
        "\ufeff",
        "\ud800",
        "\U000e0001",
    } <= set(HIDDEN)
    hidden = set(HIDDEN)
    for character in EVERY:
        shown = visible(character)
        if character not in hidden:
            assert shown == character
        else:
            assert not hidden & set(shown), hex(ord(character))
            assert shown.isascii()
    assert visible("äß 密码 🔑 e\u0301") == "äß 密码 🔑 e\u0301"
    assert visible_lines("a\nb\x1b") == "a\nb\\x1b"


def test_json_keeps_every_character_and_shows_none_that_is_hidden() -> None:
    text = " ".join(EVERY)  # apart, since JSON takes two surrogates for a character
    written = json_text({"ä": text})
    assert json.loads(written) == {"ä": text}
    assert not set(HIDDEN) & set(written)
    assert '"ä"' in written
    assert set(HIDDEN) & set(json_text([text], indent=2)) == {"\n"}


def test_no_console_lets_a_control_character_through_whatever_was_forgotten() -> None:
    out, page = a_screen()
    text = "".join(HIDDEN)
    out.print(text, markup=False)
    out.print("[bold]" + text.replace("[", ""))
    grid = Table(text)
    grid.add_row(text)
    out.print(grid)
    assert set(page.getvalue()) & set(HIDDEN) == {"\n"}
    out, page = a_screen(force_terminal=True, color_system=None)
    with Live(console=out, auto_refresh=False) as live:
        table = Table.grid()
        table.add_row(Spinner("dots"), "\x9b31m\u202e\x07")
        live.update(table, refresh=True)
    assert set(page.getvalue()) & set(HIDDEN) == {"\n", "\r", "\x1b"}
    assert r"\x9b31m\u202e\x07" in page.getvalue()


def hostile_status() -> Status:
    node = NodeAddress(NAME)
    move = RunningMove(NAME, 102008, node, node, NAME, 2**20, 2**21)
    return Status(
        cluster=NAME,
        state=State.DEGRADED,
        services=(ServiceStatus(NAME, NAME, NAME, NAME, NAME),),
        overview=Overview(
            (NodeOverview(node, NAME, True, True, NAME, NAME, 2, 16384),),
            (TableOverview(NAME, NAME, NAME, 32, 2**30, 1),),
            RebalanceStatus(JobState.RUNNING, 3, shards_done=1, shards_total=8, moves=(move,)),
        ),
        companions=(),
        ring=None,
        not_registered=(),
        not_desired=(),
        problems=(NAME,),
        advice=(NAME,),
    )


def check(text: str) -> None:
    assert set(text) & set(HIDDEN) <= {"\n"}
    assert not any(line.lstrip().startswith("✓") for line in text.splitlines())
    assert SEEN in text


def test_hostile_names_in_a_status() -> None:
    out, page = a_screen()
    print_status(hostile_status(), out)
    check(page.getvalue())
    # Cluster, node, role, its two versions, table, its type and column, the move and its phase, a problem, an advice.
    assert page.getvalue().count(SEEN) >= 12


def test_hostile_words_in_everything_else_that_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    out, page = a_screen()
    monkeypatch.setattr(screen, "err", out)
    monkeypatch.setattr("citus_cluster.console.pg14.err", out)
    says: list[Callable[[], None]] = [
        lambda: screen.print_error(CitusClusterError(NAME, hint=NAME, details=[NAME])),
        lambda: screen.print_warnings([NAME]),
        lambda: screen.print_notes([NAME]),
        lambda: print_consequences([NAME]),
        lambda: screen.Progress().emit(Event("step", EventKind.WARNING, NAME)),
        lambda: out.print(screen.table("", ("a",), [(NAME,)])),
    ]
    for say in says:
        say()
        check(page.getvalue())
        page.truncate(page.seek(0))


def test_a_question_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out, page = a_screen()
    monkeypatch.setattr(screen, "err", out)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert screen.confirm(NAME)
    check(page.getvalue())


def test_a_traceback_and_a_log_line_are_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out, page = a_screen()
    monkeypatch.setattr(screen, "err", out)
    try:
        raise ValueError("\x1b]52;\x9b\u202e")
    except ValueError as error:
        screen.print_traceback(error)
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "said %s", ("\x1b",), (ValueError, error, None))
    assert "Traceback" in page.getvalue()
    assert VisibleFormatter().format(record).splitlines() == [r"said \x1b", r"ValueError: \x1b]52;\x9b\u202e"]
    assert set(page.getvalue()) & set(HIDDEN) == {"\n"}


def test_there_is_one_door_to_the_terminal() -> None:
    """Nothing else escapes for rich, makes a console, or writes JSON and text by itself."""
    package = ROOT / "citus_cluster"
    edge = [*package.glob("*.py"), *package.glob("cli/*.py"), *package.glob("console/*.py")]
    for path in sorted(edge):
        if path.name == "screen.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "rich.markup", path.name
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"Console", "print", "sys.stdout.write", "sys.stderr.write", "json.dumps"}, (
                    path.name
                )
