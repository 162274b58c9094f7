"""Only printing: results on stdout, progress and messages on stderr.

Without a terminal there are no colours, no cursor movements and no prompts. External text (from a server, a file, an
argument) passes through :func:`escape`, so that neither the terminal nor our own markup interprets it; and no console
prints a control character, even if the escaping was forgotten.
"""

import shlex
import shutil
import signal
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
from rich.prompt import Confirm, Prompt
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.model.visible import json_text, visible, visible_lines

_SIGNS = {
    EventKind.STARTED: "·",
    EventKind.PROGRESS: "·",
    EventKind.DONE: "[green]✓[/]",
    EventKind.SKIPPED: "[dim]-[/]",
    EventKind.WARNING: "[yellow]![/]",
    EventKind.FAILED: "[red]✗[/]",
}
FRAMES_PER_S = 8
_drawing = threading.RLock()
"""Held during writes to the terminal. rich decides which rows a line replaces before it writes the line: a frame that
another thread draws in between would leave a row behind."""
_UNFINISHED = {EventKind.STARTED, EventKind.PROGRESS}


class Screen(Console):
    """Shows only our own control characters; a reader that has exited is handled where the program ends."""

    def __init__(self, **options: Any) -> None:
        # A name such as :bomb: must not become an emoji.
        super().__init__(highlight=False, soft_wrap=True, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible_lines(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        with _drawing:
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        raise  # it is called while that error is handled


class _Results(Screen):
    """stdout. Progress on stderr usually shares its terminal, and is hidden for each result."""

    def print(self, *objects: Any, **options: Any) -> None:
        with Progress.undisturbed():
            super().print(*objects, **options)


# In a pipe, lines have their full length instead of being folded at 80 columns.
_WIDTH = None if sys.stdout.isatty() else 240
out: Console = _Results(width=_WIDTH)
err: Console = Screen(stderr=True)


def escape(text: object) -> str:
    """Make one line of an external text: literal, neither interpreted by the terminal nor read as markup."""
    return escape_markup(visible(str(text)))


def interactive() -> bool:
    """Return whether a person can answer questions: stdin and stderr are terminals."""
    return sys.stdin.isatty() and err.is_terminal


def print_json(data: object) -> None:
    """Print one JSON document on stdout, without colours."""
    write(json_text(data, indent=2) + "\n")


def print_json_line(data: object) -> None:
    """Print one JSON document on a single line."""
    write(json_text(data) + "\n")


def write(text: str) -> None:
    """Write a text to stdout unchanged, at once."""
    with Progress.undisturbed():
        sys.stdout.write(text)
        sys.stdout.flush()


def print_error(error: CitusClusterError) -> None:
    """Print what happened, the findings, and what to do next."""
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
    with Progress.undisturbed(), _interruptible():
        return Confirm.ask(Text(visible(question)), default=False, console=err)


def ask(question: str) -> str:
    with Progress.undisturbed(), _interruptible():
        return Prompt.ask(Text(visible(question)), console=err)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a question at once: asyncio would record it, and continue to wait for the answer."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in {signal.SIG_IGN, None}:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except EOFError:  # Ctrl-D
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def pasteable(command: str, root: Path) -> str:
    """Return one of our commands in a form that can be pasted here, for the cluster in ``root``.

    The environment may not be activated, and the scripts and the cluster may be elsewhere.
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
    """Return a path, relative if it is below the current directory, quoted for a shell."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


class Progress:
    """Shows events: on a terminal a line for each running step, elsewhere plain lines."""

    _shown: ClassVar[Self | None] = None
    """The instance that is on the terminal now."""

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
        """Hide the progress for a block."""
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
        # Create a new one each time: an old one erases as many lines as it once had, which may belong to others now.
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
        """Return whether a step has begun and not ended."""
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


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Make a table that is readable in a terminal and in a pipe."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=False)
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made
