"""The promotion and the rebuild of the PostgreSQL 14 pair, as plans: only a host with the engine can run them.

Both stop and fence a server through Docker, which the admin API cannot reach. So its plans say what would happen, and
which command does it. The commands ``pg14`` run ``operations.pair.use_cases``.
"""

from dataclasses import dataclass
from typing import Annotated, NoReturn

from pydantic import Field

from citus_cluster.errors import BlockedError
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Preview, blocks
from citus_cluster.operations.change import Change, command_line
from citus_cluster.operations.cluster import Cluster

_WHY = "Only a host with the Docker engine can stop and fence a server, so this runs as a command there."


@parameters
class Promoting:
    """What the promotion of the replica may lose."""

    accept_loss: Annotated[bool, Field(description="Continue even if committed rows are lost, as far as known.")] = (
        False
    )


@parameters
class Rebuilding:
    """What the rebuild of the replica may discard."""

    discard: Annotated[
        bool, Field(description="Remove its data even if they contain rows that are missing on the primary.")
    ] = False


@dataclass(frozen=True)
class NotRun(Documented):
    """The result of a change that runs only on a host: there is none here."""


async def _plan_promotion(cluster: Cluster, wanted: Promoting) -> Preview:
    steps = (
        "Stop the primary, and fence it, so that it never accepts writes again as a primary.",
        "Wait until the replica has replayed what it received, and find out which transactions it lacks.",
        "Promote the replica. It is the primary from then on, also after restarts.",
    )
    return Preview(steps, (blocks(_WHY, command_line(PROMOTE, wanted)),))


async def _plan_rebuild(cluster: Cluster, wanted: Rebuilding) -> Preview:
    kept = "removed" if wanted.discard else "removed, or kept under another name if the primary lacks rows of them"
    steps = (
        f"Stop the server that is not the primary. Its data are {kept}.",
        "Copy the primary's data to it, and start it as a replica.",
    )
    return Preview(steps, (blocks(_WHY, command_line(REBUILD, wanted)),))


async def _promote(cluster: Cluster, wanted: Promoting, preview: Preview, emit: Emit) -> NotRun:
    _refuse(command_line(PROMOTE, wanted))


async def _rebuild(cluster: Cluster, wanted: Rebuilding, preview: Preview, emit: Emit) -> NotRun:
    _refuse(command_line(REBUILD, wanted))


def _refuse(command: str) -> NoReturn:
    raise BlockedError(f"Nothing was changed: {_WHY}", hint=f"Run in the directory of the cluster: {command}")


PROMOTE: Change[Promoting] = Change(
    name="pg14-promote",
    summary="Make the replica of the PostgreSQL 14 pair the primary; the API shows the plan and the command.",
    path="services/pg14/promote",
    command="pg14 promote",
    parameters=Promoting,
    plan=_plan_promotion,
    run=_promote,
    scope=lambda wanted: "pg14",
    asks=True,
)

REBUILD: Change[Rebuilding] = Change(
    name="pg14-rebuild-replica",
    summary="Rebuild the replica of the PostgreSQL 14 pair from the primary; the API shows the plan and the command.",
    path="services/pg14/rebuild-replica",
    command="pg14 rebuild-replica",
    parameters=Rebuilding,
    plan=_plan_rebuild,
    run=_rebuild,
    scope=lambda wanted: "pg14",
    asks=True,
)
