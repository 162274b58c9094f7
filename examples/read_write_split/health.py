"""How the service and its servers are, and its figures."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from service_kit.health import Health, answer

from read_write_split.dependencies import GivenServices, get_metrics
from read_write_split.metrics import Metrics
from read_write_split.redis_link import RedisAwayError, RedisLink

router = APIRouter()


@router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(services: GivenServices) -> JSONResponse:
    """Answer 503 while users cannot be written or cannot be read, else 200: ``degraded`` where any part is down."""
    parts = await services.database.state()
    parts["cache"] = await _redis(services.redis)
    parts["activity_log"] = services.activity.state()
    return answer(parts, ("primary", "replica"))


async def _redis(link: RedisLink | None) -> dict[str, Any]:
    if link is None:
        return {"status": "off"}
    try:
        await link.ask()
    except RedisAwayError as error:
        return {"status": "down", "detail": str(error)}
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(services: GivenServices, metrics: Annotated[Metrics, Depends(get_metrics)]) -> Response:
    """Give the figures in the format of Prometheus."""
    if services.redis is not None:
        metrics.redis_up.set(services.redis.away is None)
    return Response(metrics.text(), headers={"Content-Type": metrics.content_type})
