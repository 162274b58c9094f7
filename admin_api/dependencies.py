"""The dependencies of routes: the parts of the running app."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from admin_api.access_log import client_of
from admin_api.companions import CompanionWatch
from admin_api.configuration import Configuration
from admin_api.coordinator import Coordinator, Shared
from admin_api.identity import identity_of
from admin_api.metrics import Metrics
from admin_api.reconciler import Reconciler
from admin_api.request_context import request_id
from admin_api.sampler import Sampler
from admin_api.settings import Settings
from admin_api.snapshots import Snapshots
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.companion_status import CompanionStatus, with_lacks
from citus_cluster.operations.journaled import ADMIN_API, Asker
from citus_cluster.operations.running import Operations


@dataclass
class Parts:
    """The parts of one app, which its factory creates, and its lifespan opens and closes."""

    settings: Settings
    configuration: Configuration
    coordinator: Coordinator
    reconciler: Reconciler
    companions: CompanionWatch
    snapshots: Snapshots
    operations: Operations
    active_workers: Shared[Sequence[tuple[str, int]]]
    rebalance_status: Shared[RebalanceStatus]
    sampler: Sampler
    metrics: Metrics
    was_well: bool = False
    """Whether Citus was healthy once, which distinguishes a start from a failure."""

    async def known_companions(self, *, within_s: float) -> tuple[CompanionStatus, ...]:
        """Like ``CompanionWatch.known``, with what each companion lacks on the coordinator."""
        return with_lacks(await self.companions.known(within_s=within_s), self.reconciler.unprepared)


def parts_in(request: Request) -> Parts:
    """Return the parts of the app that serves the request."""
    parts = request.app.state.parts
    assert isinstance(parts, Parts)  # noqa: S101 - Starlette's state has no types
    return parts


async def parts_of(request: Request) -> Parts:
    """Like :func:`parts_in`, as a dependency."""
    # Async although it awaits nothing: FastAPI runs other functions in a thread, at a third of a short request's cost.
    return parts_in(request)


PartsOf = Annotated[Parts, Depends(parts_of)]


def asker_of(request: Request) -> Asker:
    """Return who requests an operation, with what, and from where."""
    identity = identity_of(request.scope)
    return Asker(
        ADMIN_API,
        request=f"{request.method} {request.url.path}",
        role=identity.role.value if identity else None,
        name=identity.name if identity else None,
        via=identity.via.value if identity else None,
        client=client_of(request.scope),
        request_id=request_id(),
    )
