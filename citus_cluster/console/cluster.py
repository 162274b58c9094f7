"""Printing a running cluster: how to connect, the status, a rebalance.

This module is separate from ``screen``, so that the generator does not have to load the database driver.
"""

from pathlib import Path

from rich.console import Console

from citus_cluster.console.screen import escape, out, pasteable, table
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalancePlan, TransferMode, describe_holding
from citus_cluster.model.units import count, size
from citus_cluster.operations.access import Access
from citus_cluster.operations.rebalance.watch import progress_line
from citus_cluster.operations.start.up import UpResult
from citus_cluster.operations.status.report import State, Status


def print_block(result: UpResult, root: Path, *, show_secrets: bool) -> None:
    """Print how to connect, and the next commands."""
    access = result.access
    nodes = f", {count(len(result.nodes), 'worker')} registered" if result.nodes else ""
    verified = " and verified" if result.verified else ""
    out.print(f"[bold]Cluster {escape(result.cluster)} runs{nodes}{verified}[/] ({result.seconds:.1f} s).")
    _print_access(access, root, out, show_secrets=show_secrets)
    # Without a coordinator here, the workers are registered in the coordinator's directory.
    alone = access.psql_in_container is None
    out.print("Next, on the coordinator's server:" if alone else "Next:")
    for command in access.next_commands:
        out.print(f"  {escape(command if alone else pasteable(command, root))}")


def _print_access(access: Access, root: Path, out: Console, *, show_secrets: bool = False) -> None:
    dsn = access.dsn(show_secrets=show_secrets)
    stars = "" if show_secrets or not dsn else "   # citus-cluster up --show-secrets prints the password"
    lines = {
        "psql": access.psql_in_container and pasteable("citus-cluster psql", root),
        "or": access.psql_on_host,
        "in Docker": access.psql_in_container,
        "DSN": dsn and dsn + stars,
        "admin API": access.admin_api_request,
    }
    for label, value in lines.items():
        if value:
            out.print(f"  {label:<10} {escape(value)}")


def _print_commands(access: Access, out: Console, *, least_width: int = 0) -> None:
    """Print the commands that open a session on the other services; one that declares none has no line."""
    width = max(map(len, access.companions), default=0)
    for service, command in access.companions.items():
        out.print(f"  {service:<{max(width, least_width)}} {escape(command)}")


def print_companions_block(result: UpResult, root: Path) -> None:
    """Print how to connect to the other services."""
    if not result.companions:
        return
    out.print(f"[bold]{', '.join(result.companions)}: ready[/] ({result.seconds:.1f} s).")
    _print_commands(result.access, out)
    if not result.nodes:
        out.print(f"Next:\n  {escape(pasteable('citus-cluster status', root))}")


def print_status(found: Status, out: Console = out, *, problems_first: bool = False) -> None:
    """Print services, nodes, tables, companions, the rebalance, and finally every problem and warning.

    With ``problems_first``, the rebalance and the problems come first, for a terminal that shows only the beginning.
    """
    colours = {State.OK: "green", State.DEGRADED: "yellow", State.DOWN: "red"}
    out.print(f"Cluster {escape(found.cluster)}: [{colours[found.state]}]{found.state}[/]")
    if problems_first:
        _print_news(found, out)
    places = found.access.addresses if found.access else {}
    services = [(s.service, s.container, s.state, s.health or "-", places.get(s.service, "-")) for s in found.services]
    if any(one.state != "missing" for one in found.services):
        out.print(table("Services", ("service", "container", "state", "health", "address"), services))
    if found.overview:
        nodes = [
            (
                node.address,
                node.role,
                f"{node.citus_version or '?'} / {node.postgres_version or '?'}",
                node.condition,
                node.distributed_count,
                size(node.shard_bytes),
            )
            for node in found.overview.nodes
        ]
        out.print(table("Nodes", ("node", "role", "Citus / PG", "state", "shards", "size"), nodes))
        tables = [
            (one.name, one.type, one.distribution_column or "-", one.shard_count, size(one.size_bytes))
            for one in found.overview.tables
        ]
        if tables:
            out.print(table("Tables", ("table", "type", "distributed by", "shards", "size"), tables))
    if found.companions:
        rows = [(one.service, one.condition, one.summary or one.reason or "-") for one in found.companions]
        out.print(table("Companions", ("service", "condition", "details"), rows))
    if found.ring:
        ring = [(n.address, "up" if n.up else "down", n.state, n.load, n.owns, n.rack) for n in found.ring]
        out.print(table("Cassandra's ring", ("node", "", "state", "load", "owns", "rack"), ring))
    if found.access and found.state is not State.DOWN and not problems_first:
        out.print("[bold]Connect[/]")
        _print_access(found.access, found.root, out)
        _print_commands(found.access, out, least_width=12)
    if not problems_first:
        _print_news(found, out)


def _print_news(found: Status, out: Console) -> None:
    if found.overview and found.overview.rebalance.state is not JobState.NONE:
        _print_progress(found.overview.rebalance, out)
    for line in (*found.problems, *found.warnings):
        out.print(f"[yellow]![/] {escape(line)}")
    for advice in found.advice:
        out.print(escape(advice))


def print_rebalance(found: RebalanceStatus) -> None:
    """Print the progress of the last rebalance, and its problems."""
    if found.state is JobState.NONE:
        out.print("No rebalance has run yet.")
        return
    _print_progress(found, out)
    for problem in found.problems:
        out.print(f"[yellow]![/] {escape(problem)}")


def _print_progress(found: RebalanceStatus, out: Console) -> None:
    out.print(f"[bold]Rebalance {found.job_id}[/] {escape(progress_line(found))}")
    moves = [(move.table, move.shard_id, move.source, move.target, move.phase or "-") for move in found.moves]
    if moves:
        out.print(table("", ("table", "shard", "from", "to", "phase"), moves))


def print_rebalance_plan(found: RebalancePlan) -> None:
    """Print the moves, and the size of each node before and after them."""
    if not found.moves:
        out.print("Nothing to move: the shards are balanced.")
        return
    rows = [
        (
            move.table,
            move.shard_id,
            size(move.size_bytes),
            move.source,
            move.target,
            "held" if move.is_short or found.mode is TransferMode.BLOCK_WRITES else "continue",
        )
        for move in found.moves
    ]
    out.print(table("Moves", ("table", "shard", "size", "from", "to", "writes"), rows))
    if found.short_moves:
        out.print(f"{describe_holding(found)}. --online moves all of them online.")
    after = found.bytes_after
    sizes = [
        (address, size(before), size(after.get(address, before)))
        for address, before in sorted(found.bytes_before.items())
    ]
    out.print(table("Nodes", ("node", "now", "after"), sizes))
