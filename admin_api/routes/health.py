"""Whether the cluster is as desired; open to everybody, so it tells no secret."""

from fastapi import APIRouter, Response

from admin_api.dependencies import Parts, PartsOf
from admin_api.reconciler import Registration
from admin_api.schemas import CoordinatorHealth, Health, HealthStatus, Node, WorkersHealth
from citus_cluster import __version__
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.nodes import NodeResult

router = APIRouter(tags=["health"])


@router.get(
    "/health",
    summary="Tell whether the coordinator answers and every desired worker is registered",
    responses={503: {"model": Health, "description": "Not yet, or no longer; the body says why."}},
)
async def health(parts: PartsOf, response: Response) -> Health:
    response.headers["Cache-Control"] = "no-store"
    try:
        cluster = parts.configuration.cluster()
        refusal = await parts.coordinator.check()
    except CitusClusterError as error:
        cluster, refusal = None, error
    answer = _report(parts, cluster, refusal)
    if answer.status is HealthStatus.OK:
        parts.was_well = True
    else:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return answer


def _report(parts: Parts, cluster: ApiConfig | None, refusal: CitusClusterError | None) -> Health:
    registration = parts.reconciler.registration
    workers = _workers(registration, cluster) if parts.settings.reconciler and cluster else None
    reason = refusal.message if refusal else _pending_reason(workers)
    failing = HealthStatus.DEGRADED if parts.was_well else HealthStatus.STARTING
    return Health(
        status=failing if reason else HealthStatus.OK,
        reason=reason,
        version=__version__,
        cluster=cluster.cluster if cluster else None,
        coordinator=CoordinatorHealth(
            host=cluster.coordinator.host if cluster else None,
            port=cluster.coordinator.port if cluster else None,
            answers=refusal is None,
            reason=refusal.message if refusal else None,
        ),
        workers=workers,
        reconciler_error=registration.error,
    )


def _workers(registration: Registration, cluster: ApiConfig) -> WorkersHealth:
    registered, pending, withdrawn = registration.sort(cluster.workers)
    return WorkersHealth(
        desired=len(cluster.workers),
        registered=len(registered),
        pending=[_node(result) for result in pending],
        withdrawn=[_node(result) for result in withdrawn],
    )


def _pending_reason(workers: WorkersHealth | None) -> str | None:
    if workers is None or not workers.pending:
        return None
    listed = "; ".join(f"{node.host}:{node.port} is not registered: {node.reason}" for node in workers.pending[:3])
    more = len(workers.pending) - 3
    return f"{listed}; and {more} more" if more > 0 else listed


def _node(result: NodeResult) -> Node:
    return Node(host=result.address.host, port=result.address.port, outcome=result.outcome, reason=result.reason)
