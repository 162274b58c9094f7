"""The real parser of a program, without running the program."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from citus_cluster.cli import program
from citus_cluster.cli.tree import Unloaded


def parser_of(main: Callable[[], None]) -> Any:
    """Return the parser that an entry point such as ``program.main`` would run, with every command loaded."""
    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "run", lambda command, name: made.append(command))
        main()
    load(made[0])
    return made[0]


def load(command: Any) -> None:
    """Replace every placeholder with its command."""
    below = getattr(command, "commands", {})
    for name, one in below.items():
        if isinstance(one, Unloaded):
            below[name] = one.load()
        load(below[name])


def commands_of(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Return a command and all its subcommands, each with its path, such as ``rebalance start``."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands_of(below, f"{path} {name}".strip())
