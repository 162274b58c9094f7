"""The services of the cluster, Citus and the others, each with its condition and figures."""

import asyncio

from admin_api.dependencies import PartsOf
from admin_api.routes.health import look_at_citus
from admin_api.routing import api_router
from admin_api.schemas import Citus, Companion, Services

router = api_router("/services", "services")


@router.get("", summary="List the status of every service, Citus and the others", operation_id="services-list")
async def list_services(parts: PartsOf) -> Services:
    """Answer 200 even if a service is down: its condition and reason say so. Figures are a few seconds old at most."""
    settings = parts.settings
    citus, companions = await asyncio.gather(
        look_at_citus(parts),
        # Longer than the queries may take, so that the first request gets their answers too.
        parts.known_companions(within_s=settings.companion_timeout_s + 1),
    )
    return Services(
        citus=Citus(
            condition=citus.condition(was_well=parts.was_well),
            reason=citus.reason,
            coordinator=citus.coordinator,
            workers=citus.workers,
        ),
        companions=[Companion.model_validate(dict(status.as_dict())) for status in companions],
    )
