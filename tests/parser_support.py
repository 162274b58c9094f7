"""The real parser of a program, without running the program."""

from collections.abc import Callable
from typing import Any

import pytest
import typer

from citus_cluster.cli import program


def parser_of(main: Callable[[], None]) -> Any:
    """Give the parser that an entry point such as ``program.main`` would run."""
    made: list[typer.Typer] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "run", made.append)
        main()
    return typer.main.get_command(made[0])
