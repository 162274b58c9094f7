"""Requests to drain workers, to undo a drain, and to remove workers: under the directory's lock, with a journal line.

The module ``addition`` adds workers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from citus_cluster.errors import ConsentNeededError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.citus.removal import resolve_name
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.journaled import Journal
from citus_cluster.operations.nodes import drain as draining
from citus_cluster.operations.nodes import removal, unregistration
from citus_cluster.operations.nodes.drain import Drained, DrainPlan
from citus_cluster.operations.nodes.removal import RemovalPlan
from citus_cluster.runtime.postgres import Connection, ConnectionInfo
from citus_cluster.runtime.store import files


def locate(root: Path, dsn: str | None) -> tuple[ConnectionInfo, Directory | None]:
    """Return the connection info of the coordinator, and the directory, whose cluster.yaml may already lack workers.

    A directory with its own coordinator is unrelated to a coordinator that a DSN names. A directory with only workers
    shares the superuser and the password with it, so the DSN does not have to contain the password.
    """
    if dsn is None:
        loaded = load(root, may_lack_workers=True)
        return loaded.coordinator(), loaded
    here = load(root, may_lack_workers=True) if files.read_manifest(root) else None
    info = ConnectionInfo.from_dsn(dsn)
    if here is None or here.spec.coordinator:
        return info, None
    if not info.password and info.user == here.topology.user:
        info = replace(info, password=here.password)
    return info, here


async def plan_drain(
    on_coordinator: OnCoordinator,
    directory: Directory | None,
    names: Sequence[str],
    *,
    mode: TransferMode,
    trust_functions: bool = False,
    online: bool = False,
) -> DrainPlan:
    """Preview a drain; changes nothing."""

    async def work(conn: Connection) -> DrainPlan:
        workers = await _resolve(conn, directory, names)
        return await draining.plan(conn, workers, mode=mode, trust_functions=trust_functions, online=online)

    return await on_coordinator(work)


async def drain(
    on_coordinator: OnCoordinator,
    journal: Journal,
    directory: Directory | None,
    names: Sequence[str],
    emit: Emit,
    *,
    mode: TransferMode,
    wait: bool,
    trust_functions: bool = False,
    online: bool = False,
) -> Drained:
    """Move all shards off workers, given by the names that a user uses."""

    options = RebalanceOptions(mode=mode, drain_only=True, trust_functions=trust_functions, online=online)
    asked = {"mode": mode, "online": online, "trust_functions": trust_functions, "wait": wait}
    with journal.entry("nodes-drain", nodes=tuple(names), **asked) as entry:
        workers = await on_coordinator(lambda conn: _resolve(conn, directory, names))
        found = await draining.carry_out(on_coordinator, workers, options, emit, wait=wait)
        entry.tell(drained=found.done, job_id=found.rebalance.job_id if found.rebalance else None)
        return found


async def undo_drain(
    on_coordinator: OnCoordinator, journal: Journal, directory: Directory | None, names: Sequence[str], emit: Emit
) -> Drained:
    """Let workers hold shards again."""

    async def work(conn: Connection) -> Drained:
        return await draining.undo(conn, await _resolve(conn, directory, names), emit)

    with journal.entry("nodes-drain-undo", nodes=tuple(names)):
        return await on_coordinator(work)


async def plan_removal(on_coordinator: OnCoordinator, root: Path | None, name: str, *, force: bool) -> RemovalPlan:
    """Preview a removal; changes nothing. ``root`` as in :func:`remove`."""
    with files.locked(root):
        return await on_coordinator(lambda conn: _plan_removal(conn, root, name, force=force))


async def remove(
    on_coordinator: OnCoordinator,
    journal: Journal,
    root: Path | None,
    name: str,
    emit: Emit,
    *,
    force: bool,
    agree: Callable[[RemovalPlan], bool],
) -> RemovalPlan:
    """Remove a worker from the node list and, if ``root`` is its directory, from the files, with its container.

    ``agree`` gets the plan and returns whether the user agrees. Raises ConsentNeededError if not, and what
    plan_removal and remove raise.
    """
    with (
        files.locked(root),
        journal.entry("nodes-remove", node=name, force=force) as entry,
    ):
        plan = await on_coordinator(lambda conn: _plan_removal(conn, root, name, force=force))
        entry.tell(address=str(plan.departure.address), nothing_to_do=plan.nothing_to_do)
        if not agree(plan):
            raise ConsentNeededError(
                "A worker would be removed, but the removal was not confirmed; nothing was changed.",
                hint="Check the plan with --dry-run, then confirm it with --yes.",
            )
        # On its own connection, because a person may take long to answer.
        await on_coordinator(lambda conn: removal.remove(conn, plan, emit))
        return plan


async def _plan_removal(conn: Connection, root: Path | None, name: str, *, force: bool) -> RemovalPlan:
    directory = load(root, may_lack_workers=True) if root else None  # under the lock
    worker = (await _resolve(conn, directory, [name]))[name]
    return await removal.plan_removal(conn, directory, name, worker, force=force)


async def _resolve(conn: Connection, directory: Directory | None, names: Sequence[str]) -> Mapping[str, NodeAddress]:
    own = removal.workers_of(directory)
    registry = await unregistration.registry(conn)
    return {name: resolve_name(name, own, registry) for name in dict.fromkeys(names)}
