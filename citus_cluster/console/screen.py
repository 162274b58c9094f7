"""Printing, and nothing else: results on stdout, progress and messages on stderr.

Without a terminal there are no colours, no cursor movements and no prompts. What comes from elsewhere (a server, a
file, an argument) goes through :func:`escape`, so that neither the terminal nor our own markup obeys it; and no console
lets a control character through, whatever was forgotten.
"""

import difflib
import logging
import shlex
import shutil
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape as escape_markup
from rich.prompt import Confirm
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.changes import Action, FileChange
from citus_cluster.model.effects import Effect, EffectKind
from citus_cluster.model.events import Event, EventKind
from citus_cluster.model.units import count
from citus_cluster.model.visible import json_text, visible, visible_lines
from citus_cluster.operations.setup import SetupPlan
from citus_cluster.render.bundle import API_CONTEXT_FOLDER
from citus_cluster.runtime.log_lines import VisibleFormatter

_SIGNS = {
    EventKind.STARTED: "·",
    EventKind.PROGRESS: "·",
    EventKind.DONE: "[green]✓[/]",
    EventKind.SKIPPED: "[dim]-[/]",
    EventKind.WARNING: "[yellow]![/]",
    EventKind.FAILED: "[red]✗[/]",
}
_GENERATED = "generated"
_NAMED_FILES = 8
"""As many new files as are named one by one; a new worker brings one or two."""
FRAMES_PER_S = 8
_drawing = threading.RLock()
"""Held while something is written to the terminal. rich decides which rows a line replaces before it writes the line: a
frame that another thread draws in between would leave a row of itself behind."""
_UNFINISHED = {EventKind.STARTED, EventKind.PROGRESS}


class Screen(Console):
    """Shows no control character that is not our own; leaves a reader that has gone to whoever ends the program."""

    def __init__(self, **options: Any) -> None:
        # A name such as :bomb: is no picture.
        super().__init__(highlight=False, soft_wrap=True, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible_lines(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        with _drawing:
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        raise  # it is called while that error is handled


class _Results(Screen):
    """stdout. Progress, which is drawn on stderr, most often shares its terminal, and steps aside for each result."""

    def print(self, *objects: Any, **options: Any) -> None:
        with Progress.undisturbed():
            super().print(*objects, **options)


# In a pipe lines are as long as they need to be, instead of folded at 80 columns.
_WIDTH = None if sys.stdout.isatty() else 240
out: Console = _Results(width=_WIDTH)
err: Console = Screen(stderr=True)


def escape(text: object) -> str:
    """Make one line of a text from elsewhere: seen as it is, neither obeyed by the terminal nor read as markup."""
    return escape_markup(visible(str(text)))


def show_logs() -> None:
    """Have what libraries log, which goes to stderr, shown as everything else is."""
    if logging.lastResort:
        logging.lastResort.setFormatter(VisibleFormatter())


def interactive() -> bool:
    """Tell whether a person can be asked: both ends are a terminal."""
    return sys.stdin.isatty() and err.is_terminal


def print_json(data: object) -> None:
    """Print one JSON document on stdout, without colours."""
    write(json_text(data, indent=2) + "\n")


def print_json_line(data: object) -> None:
    """Print one JSON document on a line of its own."""
    write(json_text(data) + "\n")


def write(text: str) -> None:
    """Write a text to stdout as it is, at once."""
    with Progress.undisturbed():
        sys.stdout.write(text)
        sys.stdout.flush()


def print_error(error: CitusClusterError) -> None:
    """Print what happened, the single findings, and what to do next."""
    err.print(f"[red]Error:[/] {escape(error.message)}")
    for line in error.details:
        err.print(f"  - {escape(line)}")
    if error.hint:
        err.print(f"[bold]What to do:[/] {escape(error.hint)}")


def print_traceback(error: BaseException) -> None:
    """Print where an error comes from, as Python does."""
    err.print("".join(traceback.format_exception(error)), markup=False, end="")


def print_warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        err.print(f"[yellow]Warning:[/] {escape(warning)}")


def print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        err.print(f"[dim]Note:[/] {escape(note)}")


def confirm(question: str) -> bool:
    with Progress.undisturbed():
        return Confirm.ask(Text(visible(question)), default=False, console=err)


def pasteable(command: str, root: Path) -> str:
    """Write one of our commands so that it runs when it is pasted here, for the cluster in ``root``.

    The environment may not be activated, the scripts and the cluster may lie elsewhere.
    """
    here = root == Path.cwd()
    folder = shlex.quote(str(root))
    if command.startswith("docker compose"):
        return command if here else f"cd {folder} && {command}"
    python = Path(sys.executable)
    activated = shutil.which("python") == str(python)
    program, option = command, "--dir"
    for script, name in (("setup_citus_cluster.py", "setup"), ("add_worker.py", "add-worker")):
        if command.startswith(f"python {script}"):
            option = "--output-dir" if name == "setup" else "--dir"
            if not Path(script).is_file():
                program = command.replace(f"python {script}", f"citus-cluster {name}", 1)
    if program.startswith("python ") and not activated:
        program = program.replace("python", _short(python), 1)
    if program.startswith("citus-cluster ") and not shutil.which("citus-cluster"):
        script_path = python.with_name("citus-cluster")
        runner = _short(script_path) if script_path.is_file() else f"{_short(python)} -m citus_cluster"
        program = program.replace("citus-cluster", runner, 1)
    return program if here else f"{program} {option} {folder}"


def _short(path: Path) -> str:
    """Give a path relative to here where it is below, quoted for a shell."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


class Progress:
    """Shows events: a line for each step that runs on a terminal, plain lines elsewhere."""

    _shown: ClassVar[Self | None] = None
    """The one that is on the terminal now."""

    def __init__(self) -> None:
        self._running: dict[str, Event] = {}
        self._last: dict[str, tuple[EventKind, str]] = {}
        self._begun: set[str] = set()
        self._animated = err.is_terminal and not err.is_dumb_terminal
        self._live: Live | None = None
        self._hidden = threading.Event()

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.clear()
        self._hide()

    @classmethod
    @contextmanager
    def undisturbed(cls) -> Iterator[None]:
        """Take what is shown off the terminal, for the length of a block."""
        shown = cls._shown
        if shown is None:
            yield
            return
        shown._hide()
        try:
            yield
        finally:
            shown._show()

    def _show(self) -> None:
        if not self._animated:
            return
        Progress._shown = self
        # A new one each time: an old one erases as many lines as it once had, which are no longer its own.
        self._live = Live(self._table(), console=err, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live.start(refresh=True)
        self._hidden = threading.Event()
        threading.Thread(target=self._animate, args=(self._live, self._hidden), daemon=True).start()

    @staticmethod
    def _animate(live: Live, hidden: threading.Event) -> None:
        while not hidden.wait(1 / FRAMES_PER_S):
            with _drawing:
                if not hidden.is_set():
                    live.refresh()

    def _hide(self) -> None:
        Progress._shown = None
        if self._live:
            with _drawing:
                self._hidden.set()
                self._live.update("")
                self._live.stop()
            self._live = None

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for running in self._running.values():
            table.add_row(Spinner("dots"), escape(running.message))
        return table

    def is_under_way(self, step: str) -> bool:
        """Tell whether a step has begun, and not ended."""
        return step in self._begun

    def emit(self, event: Event) -> None:
        if event.kind in _UNFINISHED:
            self._begun.add(event.step)
        elif event.kind is not EventKind.WARNING:
            self._begun.discard(event.step)
        if event.kind in _UNFINISHED and self._animated:
            self._running[event.step] = event
        else:
            self._running.pop(event.step, None)
            if self._last.get(event.step) != (event.kind, event.message):
                err.print(f"{_SIGNS[event.kind]} {escape(event.message)}")
        self._last[event.step] = (event.kind, event.message)
        if self._live:
            self._live.update(self._table())


def print_plan(plan: SetupPlan, *, diffs: bool, later: bool = False, brief: bool = False) -> None:
    """Print which files change, what that means for containers, and the differences.

    ``brief``: many new files below ``generated/`` are counted instead of named.

    ``later``: the containers are a matter of the next ``up``, beside something else that happens now.
    """
    target = out
    if plan.nothing_to_do:
        for path in plan.kept_edits:
            err.print(f"Left as it is: {escape(path)} (edited by hand, and nothing to change in it)")
        target.print(f"Nothing to do: {escape(str(plan.root))} is as cluster.yaml says.")
        return
    if diffs:
        for change in plan.all_changes:
            if not change.path.startswith(f"{API_CONTEXT_FOLDER}/"):  # our own code is no news to the user
                _print_diff(change)
    target.print(f"[bold]Cluster {escape(plan.spec.name)}[/] in {escape(str(plan.root))}")
    for line in _file_lines(plan.all_changes, brief=brief):
        target.print(f"  {line}")
    for path in plan.kept_edits:
        target.print(f"  keep      {escape(path)} (edited by hand, and nothing to change in it)")
    effects = [effect for effect in plan.effects if not (later and effect.kind is EffectKind.REMOVE)]
    if later and effects:
        target.print("  at the next citus-cluster up:")
    for line in _effect_lines(effects):
        target.print(f"  {'  ' if later else ''}{line}")


def _file_lines(changes: Sequence[FileChange], *, brief: bool) -> Iterable[str]:
    new = [one for one in changes if one.action is Action.CREATE and one.path.startswith(f"{_GENERATED}/")]
    if brief and len(new) > _NAMED_FILES:
        yield from _file_lines([one for one in changes if one not in new], brief=False)
        folders = sorted({one.path.split("/")[1] for one in new if one.path.count("/") > 1})
        yield f"{Action.CREATE.value:<9} {_GENERATED}/ ({count(len(new), 'file')}: {', '.join(folders)})"
        return
    context = [change for change in changes if change.path.startswith(f"{API_CONTEXT_FOLDER}/")]
    for change in changes:
        if change not in context:
            edited = " (edited by hand; the edited file is kept as .bak)" if change.edited else ""
            yield f"{change.action.value:<9} {escape(change.path)}{edited}"
    if context:
        actions = {change.action.value for change in context}
        action = actions.pop() if len(actions) == 1 else Action.UPDATE.value
        files = count(len(context), "file")
        yield f"{action:<9} {API_CONTEXT_FOLDER}/ ({files}, the build context of the admin API's image)"


def _effect_lines(effects: Sequence[Effect]) -> Iterable[str]:
    """One line for all services to which the same happens for the same reasons."""
    grouped: dict[tuple[EffectKind, tuple[str, ...]], list[str]] = {}
    for effect in effects:
        grouped.setdefault((effect.kind, effect.reasons), []).append(effect.service)
    words = {
        EffectKind.ADD: "add",
        EffectKind.RECREATE: "restart",
        EffectKind.RELOAD: "reload",
        EffectKind.REMOVE: "stop",
    }
    for (kind, reasons), services in grouped.items():
        why = f": {', '.join(reasons)}" if reasons else ""
        yield escape(f"{words[kind]:<9} {', '.join(services)}{why}")


def _print_diff(change: FileChange) -> None:
    if change.action is not Action.UPDATE or change.old is None or change.wanted is None:
        return
    old, new = (text.decode(errors="replace").splitlines() for text in (change.old, change.wanted.content))
    for line in difflib.unified_diff(old, new, f"{change.path} (now)", f"{change.path} (new)", lineterm="", n=1):
        colour = {"+": "green", "-": "red"}.get(line[:1])
        out.print(f"[{colour}]{escape(line)}[/]" if colour else escape(line))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Make a table that reads well in a terminal and in a pipe."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=False)
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made
