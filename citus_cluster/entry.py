"""Where every program begins: Ctrl-C while the rest is being imported, half a second, ends it without a traceback.

Imports nothing that takes time, and nothing that may be missing.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130


def guard() -> None:
    """Let Ctrl-C end the process at once, until :func:`release`: nothing has begun that would need an end of its own.

    An exception would not do: what is being imported may catch it. Where Ctrl-C is ignored, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def release() -> None:
    """From here on Ctrl-C is an exception again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(INTERRUPTED)
