"""What a route is given. A test replaces any of it by ``app.dependency_overrides``."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, HTTPException, Request, Response

from read_write_split.activity import ActivityLog
from read_write_split.database import Database
from read_write_split.list_cache import ListCache
from read_write_split.metrics import Metrics
from read_write_split.positions import parse
from read_write_split.rate_limit import RateLimit
from read_write_split.redis_link import RedisLink
from read_write_split.settings import Settings
from read_write_split.tokens import RefusedTokenError, subject_of

POSITION_HEADER = "X-Commit-LSN"


@dataclass
class Services:
    """What exists while the application runs."""

    settings: Settings
    database: Database
    redis: RedisLink | None
    cache: ListCache
    limit: RateLimit
    activity: ActivityLog


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


GivenServices = Annotated[Services, Depends(get_services)]


async def get_metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


async def get_settings(services: GivenServices) -> Settings:
    return services.settings


async def get_database(services: GivenServices) -> Database:
    return services.database


async def get_cache(services: GivenServices) -> ListCache:
    return services.cache


async def get_limit(services: GivenServices) -> RateLimit:
    return services.limit


async def get_activity(services: GivenServices) -> ActivityLog:
    return services.activity


async def get_client(request: Request, settings: Annotated[Settings, Depends(get_settings)]) -> str:
    """Name who asks: the subject of the token, or the address where no token is needed. Raises a 401."""
    if settings.jwt_key is None:
        return request.client.host if request.client else "unknown"
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise HTTPException(401, "This needs a token.", headers={"WWW-Authenticate": f'Bearer realm="{_REALM}"'})
    try:
        return subject_of(settings.jwt_key, token.strip())
    except RefusedTokenError as error:
        challenge = f'Bearer realm="{_REALM}", error="invalid_token", error_description="{error}"'
        raise HTTPException(401, f"{error}.", headers={"WWW-Authenticate": challenge}) from None


_REALM = "read_write_split"


async def take_allowance(
    response: Response,
    client: Annotated[str, Depends(get_client)],
    limit: Annotated[RateLimit, Depends(get_limit)],
    metrics: Annotated[Metrics, Depends(get_metrics)],
) -> dict[str, str]:
    """Count this request; gives headers for its answer. Raises a 429."""
    allowance = await limit.take(client)
    if allowance.retry_after_s:
        metrics.limited.inc()
        headers = {"Retry-After": str(allowance.retry_after_s), "X-RateLimit-Remaining": "0"}
        raise HTTPException(429, "Rate limit exceeded", headers=headers)
    return {} if allowance.remaining is None else {"X-RateLimit-Remaining": str(allowance.remaining)}


async def get_token_position(
    position: Annotated[
        str | None, Header(alias=POSITION_HEADER, max_length=17, pattern="^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$")
    ] = None,
) -> int:
    """Read the position that the reader wants to see; 0 for none."""
    return parse(position) if position else 0
