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
from citus_cluster.entry import importing


@dataclass(frozen=True)
class Leaf:
    """A command: ``place`` is its module below ``citus_cluster.cli``, and its function.

    ``summary`` is the first sentence of its help, so that the list of commands can be shown without imports.
    """

    place: str
    summary: str = ""


@dataclass(frozen=True)
class Declared:
    """The command of a declared change or view: ``place`` is its module below ``citus_cluster.operations``, and name.

    ``summary`` is its own, so that the list of commands can be shown without imports.
    """

    place: str
    summary: str


@dataclass(frozen=True)
class Branch:
    """A group of commands."""

    summary: str
    leaves: Mapping[str, Leaf | Declared] = field(default_factory=dict)


TREE: Mapping[str, Leaf | Branch] = {
    "setup": Leaf("setup:setup", "Generate all files of a Citus cluster on Docker Compose, and start it with --up."),
    "retune": Leaf("retune:retune", "Divide the memory again among all services."),
    "up": Leaf(
        "start:up", "Start all services, register the workers, and verify the cluster with a distributed write."
    ),
    "down": Leaf("start:down", "Stop and remove the containers."),
    "status": Leaf("status:status", "Show services, nodes, tables and a running rebalance."),
    "add-worker": Leaf("nodes:add_worker", "Register a worker with the coordinator."),
    "cluster": Branch(
        "Show the versions and the topology of the cluster, and how it differs from its files.",
        {
            "show": Declared(
                "cluster_state.views:SHOW",
                "Show the versions of all nodes, the topology, and what this version of Citus can do.",
            ),
            "drift": Declared(
                "cluster_state.views:DRIFT",
                "Compare the cluster with its files; only citus-cluster status on the host sees the containers.",
            ),
        },
    ),
    "nodes": Branch(
        "List, register, change, drain and remove nodes.",
        {
            "list": Declared("nodes.views:LIST", "List all nodes of pg_dist_node, and whether each answers now."),
            "active": Declared(
                "nodes.views:ACTIVE",
                "List the rows of citus_get_active_worker_nodes(): metadata of Citus, not liveness.",
            ),
            "mesh": Declared("nodes.views:MESH", "Check that every node can connect to every node."),
            "add": Leaf("nodes:add_worker"),
            "activate": Declared("nodes.changes:ACTIVATE", "Activate a node that was disabled or added as inactive."),
            "disable": Declared(
                "nodes.changes:DISABLE",
                "Disable a node whose shards other nodes have too; Citus sends it no query until it is activated.",
            ),
            "set": Declared("nodes.changes:SET", "Set whether Citus may place shards on a node."),
            "add-inactive": Declared(
                "nodes.joining:ADD_INACTIVE", "Add a worker to the node list without activating it."
            ),
            "add-secondary": Declared(
                "nodes.joining:ADD_SECONDARY", "Add a physical standby of a node to the node list, for reads."
            ),
            "move": Declared(
                "nodes.moving:MOVE", "Change the address of a node: the same server elsewhere, or its promoted standby."
            ),
            "pause": Declared(
                "nodes.maintenance:PAUSE",
                "Pause a node for maintenance: it gets no new shards, and no query where other nodes have its shards.",
            ),
            "resume": Declared(
                "nodes.maintenance:RESUME", "End the maintenance of a node, and restore its state before."
            ),
            "drain": Leaf("nodes:drain"),
            "remove": Leaf("nodes:remove"),
        },
    ),
    "tables": Branch(
        "List tables, and choose how Citus stores them.",
        {
            "list": Declared(
                "tables.views:TABLES",
                "List all tables: distributed, reference, local, and those of distributed schemas.",
            ),
            "distribute": Declared(
                "tables.distribution:DISTRIBUTE", "Divide the rows of a table among the nodes by a column."
            ),
            "reference": Declared("tables.distribution:REFERENCE", "Copy a table to every node, as a reference table."),
            "undistribute": Declared(
                "tables.alteration:UNDISTRIBUTE",
                "Make a distributed or reference table an ordinary table of the coordinator.",
            ),
            "alter": Declared(
                "tables.alteration:ALTER",
                "Change the distribution column, the number of shards, or the colocation of a distributed table.",
            ),
        },
    ),
    "schemas": Branch(
        "List schemas, and place each on a node of its own.",
        {
            "list": Declared("tables.views:SCHEMAS", "List all schemas, and the node of each distributed schema."),
            "distribute": Declared(
                "schemas.changes:DISTRIBUTE", "Move all tables of a schema to one node, as one tenant."
            ),
            "undistribute": Declared(
                "schemas.changes:UNDISTRIBUTE", "Move all tables of a distributed schema back to the coordinator."
            ),
            "move": Declared("schemas.changes:MOVE", "Move a distributed schema to another node."),
        },
    ),
    "shards": Branch(
        "List, find, move and split shards.",
        {
            "list": Declared("shards.views:LIST", "List every placement of every shard, with its size."),
            "groups": Declared(
                "shards.views:GROUPS",
                "List the groups of shards that move together, on each node, with their size and skew.",
            ),
            "where": Declared(
                "shards.views:WHERE", "Show the shard and the node of one value of a table's distribution column."
            ),
            "move": Declared(
                "shards.moving:MOVE",
                "Move a shard, with those that are always on the same node, to another node.",
            ),
            "split": Declared(
                "shards.splitting:SPLIT",
                "Split a shard, with those that are always on the same node, by hash values.",
            ),
            "isolate": Declared(
                "shards.splitting:ISOLATE",
                "Give the rows with one value of the distribution column a shard of their own.",
            ),
        },
    ),
    "rebalance": Branch(
        "Move shards so that they are balanced across the nodes.",
        {
            **{name: Leaf(f"rebalance:{name}") for name in ("plan", "start", "status", "stop", "wait")},
            "tasks": Declared(
                "rebalance.views:TASKS", "List the moves of a rebalance, with their state, retries and last error."
            ),
            "history": Declared(
                "rebalance.views:HISTORY", "List the rebalances, with their moves and how long they took."
            ),
            "diagnosis": Declared(
                "rebalance.views:DIAGNOSIS",
                "Find out why a rebalance does not continue, and what earlier ones left behind.",
            ),
            "repair": Declared(
                "rebalance.repair:REPAIR",
                "Clear what is safe to clear so that a rebalance continues, and name what is left for a person.",
            ),
        },
    ),
    "activity": Branch(
        "Show running statements, lock waits and statistics, and end statements.",
        {
            "list": Declared("activity.views:LIST", "List the running statements and open transactions of all nodes."),
            "locks": Declared(
                "activity.views:LOCKS",
                "List the sessions that wait for locks as a tree, each below the one that blocks it.",
            ),
            "statements": Declared(
                "activity.views:STATEMENTS", "List the statements that have taken most time on a node."
            ),
            "tenants": Declared("activity.views:TENANTS", "List the tenants with most queries on each node."),
            "features": Declared(
                "activity.views:FEATURES", "List which statistics are collected, and what the others lack."
            ),
            "enable": Declared(
                "activity.changes:ENABLE",
                "Switch on the statistics of statements or tenants, as far as no restart is needed.",
            ),
            "cancel": Declared(
                "activity.changes:CANCEL", "Cancel the running statement of a session, on whichever node it is."
            ),
            "terminate": Declared(
                "activity.changes:TERMINATE",
                "End a session, on whichever node it is, and roll back its transaction.",
            ),
        },
    ),
    "consistency": Branch(
        "Show and end what is left over of transactions and moves, and create restore points.",
        {
            "prepared": Declared(
                "consistency.views:PREPARED",
                "List the prepared transactions of all nodes, and whether each will be committed.",
            ),
            "recover": Declared(
                "consistency.changes:RECOVER", "Commit or roll back prepared transactions that are left over."
            ),
            "orphans": Declared(
                "consistency.views:ORPHANS", "List what moves and splits of shards left behind on the nodes."
            ),
            "cleanup": Declared("consistency.changes:CLEANUP", "Drop what moves and splits of shards left behind."),
            "restore-points": Declared(
                "consistency.views:RESTORE_POINTS", "List the restore points that were created."
            ),
            "restore-point": Declared(
                "consistency.changes:RESTORE_POINT",
                "Create a named position in the WAL of all nodes, to which backups can be restored together.",
            ),
        },
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
    "tokens": Branch(
        "Create, list and revoke tokens of the admin API.",
        {
            "create": Leaf("tokens:create"),
            "list": Leaf("tokens:list_tokens"),
            "revoke": Leaf("tokens:revoke"),
        },
    ),
    "operations": Branch(
        "List, show, cancel and resume the operations of the admin API.",
        {
            "list": Leaf("operations:list_operations"),
            "show": Leaf("operations:show"),
            "cancel": Leaf("operations:cancel"),
            "resume": Leaf("operations:resume"),
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
    "api": Leaf("api:api", "Send a request to the admin API, and print its answer as JSON."),
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
    return _group(name, group, {below: _leaf(leaf, name, below) for below, leaf in part.leaves.items()})


def _leaf(leaf: Leaf | Declared, group: str, name: str) -> Any:
    path = f"{group} {name}"
    if isinstance(leaf, Leaf):
        return _command(leaf, path)
    return Unloaded(name, leaf.summary, partial(_declared_command, leaf, path))


def _declared_command(leaf: Declared, path: str) -> Any:
    with importing():
        from citus_cluster.cli import declared

        module, _, name = leaf.place.partition(":")
        found = getattr(import_module(f"citus_cluster.operations.{module}"), name)
    make = declared.command_of_view if hasattr(found, "read") else declared.command_of_change
    return _made(make(found), path, PROGRAM)


def _command(leaf: Leaf, path: str, program: str = PROGRAM) -> Any:
    module, _, function = leaf.place.partition(":")
    return _made(getattr(import_module(f"citus_cluster.cli.{module}"), function), path, program)


def _made(function: Callable[..., None], path: str, program: str) -> Any:
    app = _typer()
    app.command(path.rpartition(" ")[2])(function)
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
