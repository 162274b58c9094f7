"""``status --watch``: repeats the status, in place on a terminal, otherwise one block after another."""

import asyncio
import io
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.live import Live
from rich.text import Text

from citus_cluster.cli.options import Format
from citus_cluster.console import cluster, screen
from citus_cluster.console.screen import escape
from citus_cluster.entry import INTERRUPTED
from citus_cluster.errors import CitusClusterError, UnreachableError
from citus_cluster.operations.directory import load
from citus_cluster.operations.status.report import Status, status

ROUND_TIMEOUT_S = 60.0
"""The status has its own limit, half of this; an engine that hangs could take longer."""
_TERMINATED = 143


def watch(root: Path, seconds: float, format_: Format) -> NoReturn:
    """Show the status of the cluster in ``root`` until Ctrl-C (exit 130) or SIGTERM (143).

    Raises what loading the directory raises, but only at the beginning.
    """
    load(root)
    try:
        asyncio.run(_rounds(root, seconds, format_))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)  # at once: the parser would print that the work is not done
    except asyncio.CancelledError:
        sys.exit(_TERMINATED)


async def _rounds(root: Path, seconds: float, format_: Format) -> NoReturn:
    task = asyncio.current_task()
    if task:
        # If the signal ended the process directly, the terminal would stay without its cursor.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if format_ is Format.JSON or not screen.out.is_terminal:
        while True:
            _print(await _look(root), format_)
            await asyncio.sleep(seconds)
    with Live(console=screen.out, auto_refresh=False) as live:
        while True:
            live.update(_in_place(await _look(root), seconds), refresh=True)
            await asyncio.sleep(seconds)


async def _look(root: Path) -> Status | CitusClusterError:
    """Load the directory again, because the cluster may have grown. Errors are returned: they may be temporary."""
    try:
        async with asyncio.timeout(ROUND_TIMEOUT_S):
            return await status(load(root))
    except TimeoutError:
        return UnreachableError(f"The engine or the cluster did not answer within {ROUND_TIMEOUT_S:g} s.")
    except CitusClusterError as error:
        return error


def _in_place(found: Status | CitusClusterError, seconds: float) -> Text:
    page = io.StringIO()
    wide = screen.Screen(file=page, force_terminal=True, color_system=screen.out.color_system, width=screen.out.width)
    wide.print(f"[dim]{datetime.now().astimezone():%X}, every {seconds:g} s; press Ctrl-C to stop[/]")
    # A small terminal cuts off the end, so the reasons must not be there.
    _print_text(found, wide, problems_first=True)
    return Text.from_ansi(page.getvalue(), no_wrap=False, overflow="fold")


def _print(found: Status | CitusClusterError, format_: Format) -> None:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    if format_ is Format.JSON:
        document = (
            {"error": found.code, "message": found.message} if isinstance(found, CitusClusterError) else found.as_dict()
        )
        screen.print_json_line({"time": now, **document})
    else:
        screen.out.print(f"{now}")
        _print_text(found, screen.out)
        screen.out.print()


def _print_text(found: Status | CitusClusterError, out: Console, *, problems_first: bool = False) -> None:
    if isinstance(found, CitusClusterError):
        out.print(f"[red]Error:[/] {escape(found.message)}")
    else:
        cluster.print_status(found, out, problems_first=problems_first)
