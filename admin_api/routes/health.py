"""The health of the cluster; open to everybody, so it discloses no secret."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from shutil import disk_usage

from fastapi import APIRouter, Response

from admin_api.dependencies import Parts, PartsOf
from admin_api.reconciler import Reconciler
from admin_api.responses import VisibleJSONResponse
from admin_api.schemas import CompanionHealth, CoordinatorHealth, Health, HealthStatus, Live, Readiness, WorkersHealth
from citus_cluster import __version__
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.disks import Disk, disk_alerts

router = APIRouter(tags=["health"], default_response_class=VisibleJSONResponse)


@dataclass(frozen=True)
class CitusSeen:
    """The state of Citus just now.

    ``refusal`` says why the coordinator does not answer, ``reason`` why Citus is not healthy.
    """

    cluster: ApiConfig | None
    refusal: CitusClusterError | None
    workers: WorkersHealth | None
    reason: str | None

    def condition(self, *, was_well: bool) -> Condition:
        if self.reason is None:
            return Condition.OK
        if not was_well:
            return Condition.STARTING
        return Condition.DOWN if self.refusal else Condition.DEGRADED

    @property
    def coordinator(self) -> CoordinatorHealth:
        return CoordinatorHealth(
            host=self.cluster.coordinator.host if self.cluster else None,
            port=self.cluster.coordinator.port if self.cluster else None,
            answers=self.refusal is None,
            reason=self.refusal.message if self.refusal else None,
        )


@router.get(
    "/health",
    summary="Check that the coordinator answers, and that every desired worker is registered and serves queries",
    operation_id="health",
    responses={503: {"model": Health, "description": "Citus is not healthy yet, or no longer; the body says why."}},
)
async def health(parts: PartsOf, response: Response) -> Health:
    """Answer 200 while Citus is healthy. Another service that is down only makes the status degraded."""
    response.headers["Cache-Control"] = "no-store"
    citus, companions = await asyncio.gather(look_at_citus(parts), _companions(parts))
    if citus.reason:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    disks = disk_alerts([*parts.reconciler.disks, own_disk()])
    status = _status(citus, companions, parts.was_well)
    return Health(
        status=HealthStatus.DEGRADED if disks.alarms and status is HealthStatus.OK else status,
        reason="; ".join([*_reasons(citus, companions), *disks.alarms]) or None,
        warnings=[*parts.reconciler.maintenance, *disks.warnings],
        version=__version__,
        cluster=citus.cluster.cluster if citus.cluster else None,
        coordinator=citus.coordinator,
        workers=citus.workers,
        reconciler_error=parts.reconciler.registration.error,
        companions=[
            CompanionHealth(service=one.service, condition=one.condition, reason=one.reason) for one in companions
        ],
    )


@router.get("/health/live", summary="Check that the admin API itself serves requests", operation_id="health-live")
async def live(response: Response) -> Live:
    """Answer 200 while this process serves requests, whatever the state of the cluster: a restart would not help."""
    response.headers["Cache-Control"] = "no-store"
    return Live()


@router.get(
    "/health/ready",
    summary="Check that Citus can serve queries now",
    operation_id="health-ready",
    responses={503: {"model": Readiness, "description": "Queries fail, or would fail; the body says why."}},
)
async def ready(parts: PartsOf, response: Response) -> Readiness:
    """Answer 200 if the coordinator answers, and every registered node serves queries and has its shards.

    A worker that is still to be registered holds no shards, so it does not matter as long as another one is registered.
    The nodes were checked a few seconds ago; see `GET /health`.
    """
    response.headers["Cache-Control"] = "no-store"
    citus = await look_at_citus(parts)
    reason = _unready(citus)
    if reason:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return Readiness(ready=reason is None, reason=reason)


def _unready(citus: CitusSeen) -> str | None:
    workers = citus.workers
    if citus.refusal or workers is None:
        return citus.reason
    if workers.unwell:
        return _listed(workers.unwell)
    # Before its first check, the API knows nothing of the nodes, and lists each worker as pending.
    return citus.reason if workers.desired and not workers.registered + len(workers.withdrawn) else None


def own_disk() -> Disk:
    """The disk of this container, which is the engine's disk, and therefore that of the volumes too."""
    usage = disk_usage("/")
    return Disk("admin-api", usage.total, usage.free)


async def look_at_citus(parts: Parts) -> CitusSeen:
    """Check whether the coordinator answers, and read the result of the reconciler's last check."""
    try:
        cluster = parts.configuration.cluster()
        refusal = await parts.coordinator.check()
    except CitusClusterError as error:
        return CitusSeen(None, error, None, error.message)
    workers = _workers(parts.reconciler, cluster) if parts.settings.reconciler else None
    reason = refusal.message if refusal else _workers_reason(workers)
    parts.was_well = parts.was_well or reason is None
    return CitusSeen(cluster, refusal, workers, reason)


async def _companions(parts: Parts) -> tuple[CompanionStatus, ...]:
    try:
        return await parts.known_companions(within_s=parts.settings.health_timeout_s)
    except CitusClusterError:
        # An error in the configuration, which is reported with Citus.
        return ()


def _status(citus: CitusSeen, companions: Sequence[CompanionStatus], was_well: bool) -> HealthStatus:
    conditions = {status.condition for status in companions}
    if citus.reason:
        return HealthStatus.DEGRADED if was_well else HealthStatus.STARTING
    if conditions & {Condition.DOWN, Condition.DEGRADED}:
        return HealthStatus.DEGRADED
    return HealthStatus.STARTING if Condition.STARTING in conditions else HealthStatus.OK


def _reasons(citus: CitusSeen, companions: Sequence[CompanionStatus]) -> list[str]:
    reasons = [citus.reason] if citus.reason else []
    return reasons + [
        f"{status.service.value} is {status.condition.value}: {status.reason}"
        for status in companions
        if status.condition is not Condition.OK
    ]


def _workers(reconciler: Reconciler, cluster: ApiConfig) -> WorkersHealth:
    registered, pending, withdrawn = reconciler.registration.sort(cluster.workers)
    return WorkersHealth(
        desired=len(cluster.workers),
        registered=len(registered),
        pending=[result.document() for result in pending],
        withdrawn=[result.document() for result in withdrawn],
        unwell=list(reconciler.troubles),
    )


def _workers_reason(workers: WorkersHealth | None) -> str | None:
    if workers is None:
        return None
    pending = [f"{node.host}:{node.port} is not registered: {node.reason}" for node in workers.pending]
    return _listed([*workers.unwell, *pending])


def _listed(lines: Sequence[str]) -> str | None:
    unique = list(dict.fromkeys(lines))
    more = len(unique) - 3
    return "; ".join([*unique[:3], *([f"and {more} more"] if more > 0 else [])]) or None
