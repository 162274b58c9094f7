"""Every command of ``citus-cluster`` by its name, and the creation of its parser.

A command is imported when it is used, so that ``--version``, ``--help`` and Tab completion do not wait for any of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from citus_cluster import __version__
from citus_cluster.cli import completion
from citus_cluster.cli.examples import PROGRAM, examples_of
from citus_cluster.cli.options import DebugOption


@dataclass(frozen=True)
class Leaf:
    """A command: ``place`` is its module below ``citus_cluster.cli``, and its function.

    ``summary`` is the first sentence of its help, so that the list of commands can be shown without imports.
    """

    place: str
    summary: str = ""


@dataclass(frozen=True)
class Branch:
    """A group of commands."""

    summary: str
    leaves: Mapping[str, Leaf] = field(default_factory=dict)


TREE: Mapping[str, Leaf | Branch] = {
    "setup": Leaf("setup:setup", "Generate all files of a Citus cluster on Docker Compose, and start it with --up."),
    "retune": Leaf("retune:retune", "Divide the memory again among all services."),
    "up": Leaf(
        "start:up", "Start all services, register the workers, and verify the cluster with a distributed write."
    ),
    "down": Leaf("start:down", "Stop and remove the containers."),
    "status": Leaf("status:status", "Show services, nodes, tables and a running rebalance."),
    "add-worker": Leaf("nodes:add_worker", "Register a worker with the coordinator."),
    "nodes": Branch(
        "Register, drain and remove workers.",
        {"add": Leaf("nodes:add_worker"), "drain": Leaf("nodes:drain"), "remove": Leaf("nodes:remove")},
    ),
    "rebalance": Branch(
        "Move shards so that they are balanced across the nodes.",
        {name: Leaf(f"rebalance:{name}") for name in ("plan", "start", "status", "stop", "wait")},
    ),
    "roles": Branch(
        "Create, list and drop ordinary roles, and change their passwords.",
        {
            "create": Leaf("roles:create"),
            "list": Leaf("roles:list_roles"),
            "password": Leaf("roles:password"),
            "drop": Leaf("roles:drop"),
        },
    ),
    "pg14": Branch(
        "Show the PostgreSQL 14 primary and replica, and change their roles.",
        {
            "status": Leaf("pg14:status"),
            "lag": Leaf("pg14:lag"),
            "promote": Leaf("pg14:promote"),
            "rebuild-replica": Leaf("pg14:rebuild_replica"),
        },
    ),
    "psql": Leaf(
        "containers:psql",
        "Open psql as the superuser in the container of a node or a PostgreSQL 14 server; needs no password.",
    ),
    "logs": Leaf("containers:logs", "Print the logs of services, including stopped ones."),
    "completion": Leaf("completion:completion", "Print a script that completes commands, options and names."),
}

_typer = partial(
    typer.Typer,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    rich_markup_mode=None,
)


class Unloaded(TyperCommand):
    """A placeholder for a command until it is used. It has the summary for lists, and creates the command itself."""

    def __init__(self, name: str, summary: str, make: Callable[[], Any]) -> None:
        super().__init__(name, help=summary)
        self._make = make
        self._made: Any = None

    def load(self) -> Any:
        """Return the command itself."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.load().make_context(info_name, args, parent, **extra)


def program() -> Any:
    """Make the parser of ``citus-cluster``."""

    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
        ] = False,
    ) -> None:
        """Run Citus (distributed PostgreSQL) on Docker Compose."""

    commands = {name: Unloaded(name, part.summary, partial(_load, name, part)) for name, part in TREE.items()}
    return _group(PROGRAM, root, commands)


def single(place: str, path: str, program: str) -> Any:
    """Make the parser of a program with a single command; ``path`` is the same command of ``citus-cluster``."""
    return _command(Leaf(place), path, program)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _load(name: str, part: Leaf | Branch) -> Any:
    if isinstance(part, Leaf):
        return _command(part, name)

    def group() -> None: ...

    group.__doc__ = part.summary
    return _group(name, group, {below: _command(leaf, f"{name} {below}") for below, leaf in part.leaves.items()})


def _command(leaf: Leaf, path: str, program: str = PROGRAM) -> Any:
    module, _, function = leaf.place.partition(":")
    app = _typer()
    app.command(path.rpartition(" ")[2])(getattr(import_module(f"citus_cluster.cli.{module}"), function))
    command: Any = typer.main.get_command(app)
    _finish(command)
    command.epilog = examples_of(path, program)
    return command


def _group(name: str, callback: Callable[..., None], commands: dict[str, Any]) -> Any:
    app = _typer(name=name, no_args_is_help=True)
    app.callback()(callback)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup), "an app with a callback is a group"  # noqa: S101
    for below, command in commands.items():
        group.add_command(command, below)
    _finish(group)
    return group


def _finish(command: Any) -> None:
    command.params.append(_debug_option())
    _show_values(command)
    for parameter in command.get_params(typer.Context(command)) if completion.is_asked() else ():
        completion.prepare_parameter(parameter)


def _debug_option() -> Any:
    def any_command(debug: DebugOption = False) -> None: ...

    app = _typer()
    app.command()(any_command)
    (made,) = typer.main.get_command(app).params
    return made


_VALUES = {"int": "NUMBER", "int range": "NUMBER", "float": "NUMBER", "float range": "NUMBER", "path": "PATH"}


def _show_values(command: Any) -> None:
    """Show values in the help as ``NUMBER`` or ``text|json`` instead of types such as ``<list[str]>``."""
    context = typer.Context(command)
    for parameter in command.params:
        kind = parameter.display_type(context).strip("<>")
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None
        elif not parameter.is_flag and parameter.metavar is None:
            parameter.metavar = _VALUES.get(kind, kind if "|" in kind else "TEXT")
