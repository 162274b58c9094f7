"""The figures of the cluster and of this API in the format of Prometheus."""

from fastapi import APIRouter, Request, Response, Security

from admin_api.auth import bearer
from admin_api.dependencies import PartsOf
from admin_api.metrics import families
from admin_api.routes.health import own_disk
from admin_api.schemas import problems
from citus_cluster.errors import CitusClusterError

router = APIRouter(tags=["metrics"], dependencies=[Security(bearer)])


@router.get(
    "/metrics",
    summary="Read the figures of the cluster in the format of Prometheus or OpenMetrics",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            }
        },
        **problems(401, 403, 503),
    },
)
async def metrics(parts: PartsOf, request: Request) -> Response:
    """Return the latest figures, which are read in the background while somebody asks for them.

    The answer never waits for a node: `citus_cluster_sample_age_seconds` says how old the figures are.
    """
    sample = await parts.sampler.latest()
    try:
        cluster = parts.configuration.cluster() if parts.settings.reconciler else None
    except CitusClusterError:
        # The sampler fails too, and counts it.
        cluster = None
    text, media_type = parts.metrics.render(
        sample, lambda: families(sample, parts.reconciler, cluster, own_disk()), request.headers.get("accept", "")
    )
    return Response(text, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
