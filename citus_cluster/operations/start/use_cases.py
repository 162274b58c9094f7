"""Requests to start a cluster and to take it down: under the directory's lock, with a journal line."""

from collections.abc import Callable
from pathlib import Path

from citus_cluster.errors import UsageError
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.journaled import Journal
from citus_cluster.operations.start import down as taking_down
from citus_cluster.operations.start import up as starting
from citus_cluster.operations.start.extension import Agree
from citus_cluster.operations.start.up import UpResult
from citus_cluster.runtime.store import files


async def start(
    root: Path,
    journal: Journal,
    emit: Emit,
    *,
    timeout_s: float,
    on_citus: Callable[[Directory, UpResult], None],
    agree: Agree,
    upgrade_citus: bool = False,
) -> UpResult:
    """Start, register and verify the cluster in ``root``; arguments and errors as in ``up``."""
    load(root)  # refuses a directory without a cluster before a lock file is created there
    with files.locked(root), journal.entry("up", upgrade_citus=upgrade_citus) as entry:
        directory = load(root)
        result = await starting.up(
            directory,
            emit,
            timeout_s=timeout_s,
            on_citus=lambda result: on_citus(directory, result),
            agree=agree,
            upgrade_citus=upgrade_citus,
        )
        entry.tell(changed=result.changed, reloaded=result.reloaded, verified=result.verified)
        return result


async def take_down(
    root: Path, journal: Journal, emit: Emit, *, volumes: bool, confirm: Callable[[str], str | None]
) -> None:
    """Stop and remove the containers in ``root``, as ``down`` does.

    ``volumes`` removes all data, but only if ``confirm``, which gets the cluster's name, returns the same name. Raises
    UsageError if it does not, and what ``down`` raises.
    """
    directory = load(root)
    name = directory.topology.name
    if volumes and confirm(name) != name:
        raise UsageError(
            f"down --volumes removes all data of {name!r}, but the name was not confirmed; nothing was done.",
            hint=f"To agree, add --confirm {name}.",
        )
    with files.locked(root), journal.entry("down", volumes=volumes):
        await taking_down.down(directory, emit, volumes=volumes)
