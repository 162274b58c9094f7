"""Printing how workers come and go."""

from pathlib import Path
from shlex import quote

from citus_cluster.console.cluster import print_rebalance
from citus_cluster.console.plan import print_plan
from citus_cluster.console.screen import err, escape, out, pasteable, print_warnings
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.units import count
from citus_cluster.operations.nodes.drain import Drained
from citus_cluster.operations.nodes.removal import RemovalPlan

_OUTCOMES = {Outcome.ADDED: "registered", Outcome.ACTIVATED: "activated again", Outcome.ALREADY: "registered already"}


def print_added(worker: NodeAddress, result: NodeResult, moving: RebalanceStatus | None, *, rebalanced: bool) -> None:
    """Print how a registration ended; ``moving`` is a rebalance that it started, and that nobody waits for."""
    out.print(f"{escape(str(worker))} is {_OUTCOMES.get(result.outcome, result.outcome.value)}.")
    if moving:
        print_rebalance(moving)
    if not rebalanced and result.outcome is Outcome.ADDED:
        out.print("It holds no shards of existing tables until a rebalance: citus-cluster rebalance start")


def print_drained(result: Drained, root: Path | None) -> None:
    """Print what follows: the removal, or how to follow the moves."""
    if result.rebalance is None or result.rebalance.state.is_final:
        out.print("Next:")
        for found in result.departures:
            command = f"citus-cluster nodes remove {quote(found.name)}"
            out.print(f"  {escape(pasteable(command, root) if root else command)}")
        return
    print_rebalance(result.rebalance)
    names = " ".join(found.name for found in result.departures)
    err.print(f"It continues in the background; follow it with: citus-cluster nodes drain {escape(names)} --wait")


def print_removal(plan: RemovalPlan) -> None:
    """Print what a removal changes, and what it keeps."""
    found = plan.departure
    if plan.nothing_to_do:
        out.print(f"Nothing to do: {escape(str(found.address))} has left the cluster.")
        return
    if found.node:
        holds = f", with copies of {count(found.shards, 'shard')} that other nodes have too" if found.shards else ""
        out.print(f"[bold]{escape(str(found.address))}[/] leaves the node list{escape(holds)}")
    else:
        out.print(f"[bold]{escape(str(found.address))}[/] is not in the node list any more")
    if plan.setup:
        print_plan(plan.setup, diffs=False, later=True)
    if plan.container:
        out.print(f"  remove    the container {escape(plan.container.name)}")
    if plan.volume:
        out.print(f"  keep      the volume {escape(plan.volume)}")
    if plan.setup:
        print_warnings(plan.setup.warnings)
    print_warnings(plan.notes)


def print_removed(plan: RemovalPlan) -> None:
    """Print that a worker has left, and what to do with what it leaves."""
    if not plan.nothing_to_do:
        out.print(f"{escape(str(plan.departure.address))} has left the cluster.")
    meaning = "when nothing in it is needed" + ("; its number is free then" if plan.setup else "")
    lines = {f"docker volume rm {plan.volume}": meaning}
    lines = lines if plan.volume else {}
    if plan.restarts and plan.setup:
        up = pasteable("citus-cluster up", plan.setup.root)
        lines[up] = f"gives its memory to the others: restarts {', '.join(plan.restarts)}"
    width = max((len(command) for command in lines), default=0)
    if lines:
        out.print("Next:")
    for command, meaning in lines.items():
        out.print(f"  {escape(command):<{width}}   # {escape(meaning)}")
