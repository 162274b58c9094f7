"""The start of every program: Ctrl-C during the imports, which take half a second, ends it without a traceback.

Imports no slow modules, and no packages that may be missing.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130


def handle_interrupts() -> None:
    """Open closed standard streams, and handle Ctrl-C until :func:`release`."""
    _open_closed_streams()
    _leave_on_interruption()


def _open_closed_streams() -> None:
    """Open the null device in place of a closed standard stream.

    Python has None there, and the next file or connection that is opened would get its number, and so the output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - for as long as the process runs


def _leave_on_interruption() -> None:
    """Let Ctrl-C end the process at once, until :func:`release`: no work has begun that would need a cleanup.

    An exception is not sufficient, because an imported module may catch it. If Ctrl-C is ignored, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process at once while a command imports its modules."""
    _leave_on_interruption()
    try:
        yield
    finally:
        release()


def release() -> None:
    """Let Ctrl-C raise an exception again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)
