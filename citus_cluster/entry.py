"""Where every program begins: Ctrl-C while the rest is being imported, half a second, ends it without a traceback.

Imports nothing that takes time, and nothing that may be missing.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130


def handle_interrupts() -> None:
    """Prepare the process for what it may be started with, and for Ctrl-C until :func:`release`."""
    _open_closed_streams()
    _leave_on_interruption()


def _open_closed_streams() -> None:
    """Put nothing in the place of a standard stream that is closed.

    Python has None there, and the next file or connection that is opened would get its number, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - for as long as the process runs


def _leave_on_interruption() -> None:
    """Let Ctrl-C end the process at once, until :func:`release`: nothing has begun that would need an end of its own.

    An exception would not do: what is being imported may catch it. Where Ctrl-C is ignored, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process at once while a command imports what it works with."""
    _leave_on_interruption()
    try:
        yield
    finally:
        release()


def release() -> None:
    """From here on Ctrl-C is an exception again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)
