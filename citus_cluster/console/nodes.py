"""Printing the registration, drain and removal of workers."""

from pathlib import Path
from shlex import quote

from citus_cluster.console.cluster import print_rebalance
from citus_cluster.console.plan import print_plan
from citus_cluster.console.screen import err, escape, out, pasteable, print_warnings
from citus_cluster.model.citus.nodes import NodeAddress, NodeDocument, Outcome
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.units import count
from citus_cluster.operations.nodes.drain import Drained
from citus_cluster.operations.nodes.removal import RemovalPlan

_OUTCOMES = {Outcome.ADDED: "registered", Outcome.ACTIVATED: "activated again", Outcome.ALREADY: "already registered"}


def print_added(added: NodeDocument, moving: RebalanceStatus | None, *, rebalanced: bool) -> None:
    """Print the result of a registration; ``moving`` is a rebalance that it started and does not wait for."""
    worker = NodeAddress(added.host, added.port)
    out.print(f"{escape(str(worker))} is {_OUTCOMES.get(added.outcome, added.outcome.value)}.")
    if moving:
        print_rebalance(moving)
    if not rebalanced and added.outcome is Outcome.ADDED:
        out.print("It gets shards of existing tables with a rebalance: citus-cluster rebalance start")


def print_drained(result: Drained, root: Path | None) -> None:
    """Print the next step: the removal, or how to follow the moves."""
    if result.rebalance is None or result.rebalance.state.is_final:
        out.print("Next:")
        for found in result.departures:
            command = f"citus-cluster nodes remove {quote(found.name)}"
            out.print(f"  {escape(pasteable(command, root) if root else command)}")
        return
    print_rebalance(result.rebalance)
    names = " ".join(found.name for found in result.departures)
    err.print(f"The drain continues in the background. To follow it: citus-cluster nodes drain {escape(names)} --wait")


def print_removal(plan: RemovalPlan) -> None:
    """Print the changes of a removal, and what it keeps."""
    found = plan.departure
    if plan.nothing_to_do:
        out.print(f"Nothing to do: {escape(str(found.address))} has left the cluster.")
        return
    if found.node:
        holds = f", with copies of {count(found.shards, 'shard')} that other nodes have too" if found.shards else ""
        out.print(f"[bold]{escape(str(found.address))}[/] leaves the node list{escape(holds)}")
    else:
        out.print(f"[bold]{escape(str(found.address))}[/] is no longer in the node list")
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
    """Print that a worker has left, and what to do with its leftovers."""
    if not plan.nothing_to_do:
        out.print(f"{escape(str(plan.departure.address))} has left the cluster.")
    meaning = "if you no longer need its data" + ("; then its number is free" if plan.setup else "")
    lines = {f"docker volume rm {plan.volume}": meaning}
    lines = lines if plan.volume else {}
    if plan.restarts and plan.setup:
        up = pasteable("citus-cluster up", plan.setup.root)
        lines[up] = f"restarts {', '.join(plan.restarts)}"
    width = max((len(command) for command in lines), default=0)
    if lines:
        out.print("Next:")
    for command, meaning in lines.items():
        out.print(f"  {escape(command):<{width}}   # {escape(meaning)}")
