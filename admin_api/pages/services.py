"""The page of all services: Citus, and those beside it, with their figures."""

from fastapi import Request, Response

from admin_api.dependencies import PartsOf
from admin_api.pages.declared import changes_of
from admin_api.pages.html import render
from admin_api.pages.routing import router
from admin_api.routes.health import look_at_citus

routes = router()


@routes.get("/services")
async def show(request: Request, parts: PartsOf) -> Response:
    citus = await look_at_citus(parts)
    companions = await parts.known_companions(within_s=parts.settings.companion_timeout_s + 1)
    context = {
        "citus": {"condition": citus.condition(was_well=parts.was_well).value, "reason": citus.reason},
        "companions": [dict(one.as_dict()) for one in companions],
        "changes": [one for one in changes_of(request).values() if one.path.startswith("services/")],
        "hidden": ("service", "condition", "reason", "summary"),
    }
    return render(request, "services.html", context)
