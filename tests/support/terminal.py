"""A command on a real pseudo-terminal, and the final screen as a person sees it."""

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import programs
import pyte

_LINES = 400
"""Enough lines that nothing scrolls off the screen."""


@dataclass(frozen=True)
class Screen:
    """The final screen of a command. ``rows`` have no spaces at their ends; ``raw`` is the complete output.

    ``text`` has all rows; rows that the terminal has wrapped are joined again.
    """

    status: int
    rows: tuple[str, ...]
    text: str
    raw: str


class _WrappingScreen(pyte.Screen):
    """Records the rows that the terminal itself has wrapped, because no character shows this."""

    def __init__(self, columns: int, lines: int) -> None:
        self.wrapped: set[int] = set()
        super().__init__(columns, lines)

    def draw(self, data: str) -> None:
        for character in data:
            if self.cursor.x == self.columns:
                self.wrapped.add(self.cursor.y)
            super().draw(character)

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        self.wrapped.discard(self.cursor.y)
        super().erase_in_line(how, private)


def on_terminal(
    command: Sequence[str],
    *,
    columns: int,
    cwd: Path,
    environment: Mapping[str, str],
    typed: Sequence[tuple[str, str]] = (),
    timeout_s: float = 120,
) -> Screen:
    """Run ``command`` on a terminal of this width.

    Each text of ``typed`` is sent once the words before it have appeared, after those of the previous pair.
    """
    terminal, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
    child = programs.start(
        command,
        cwd=cwd,
        # If the process of the tests has imported readline, these contain the size of another terminal.
        environment={name: value for name, value in environment.items() if name not in {"COLUMNS", "LINES"}},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        terminal=True,
    )
    os.close(other_end)
    screen = _WrappingScreen(columns, _LINES)
    stream = pyte.ByteStream(screen)
    seen, answered, waiting = "", 0, list(typed)
    deadline = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                data = os.read(terminal, 65536)
            except OSError:  # Linux raises this when the other end is closed
                break
            if not data:
                break
            stream.feed(data)
            seen += data.decode(errors="replace")
            if waiting and waiting[0][0] in seen[answered:]:
                answered = len(seen)
                os.write(terminal, waiting.pop(0)[1].encode())
        else:
            raise AssertionError(f"did not end within {timeout_s:g} s: {seen}")
        status = child.wait(timeout=30)
    finally:
        os.close(terminal)
        if child.poll() is None:
            child.kill()
            child.wait()
    assert not waiting, f"never saw {waiting[0][0]!r}: {seen}"
    rows = [row.rstrip() for row in screen.display]
    while rows and not rows[-1]:
        rows.pop()
    whole = zip(screen.display, rows, strict=False)
    text = "".join(row if number in screen.wrapped else f"{end}\n" for number, (row, end) in enumerate(whole))
    return Screen(status, tuple(rows), text, seen)
