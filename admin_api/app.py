"""The factory of the admin API: routes, middleware, and the objects that live as long as the app."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, FastAPI, Security

from admin_api import problems
from admin_api.auth import RequireToken, bearer
from admin_api.bodies import LimitBody
from admin_api.companions import CompanionWatch
from admin_api.configuration import Configuration
from admin_api.coordinator import Coordinator, Shared
from admin_api.dependencies import Parts
from admin_api.methods import AnswerHead
from admin_api.reconciler import Reconciler
from admin_api.responses import VisibleJSONResponse
from admin_api.routes import health, nodes, rebalance, services
from admin_api.schemas import COMMON_PROBLEMS, Problem
from admin_api.settings import API_PREFIX, Settings
from citus_cluster import __version__
from citus_cluster.operations.rebalance.watch import status as rebalance_status


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the app. By default, its settings come from the environment. It opens nothing before its lifespan."""
    settings = settings or Settings.from_environ(os.environ)
    configuration = Configuration(settings)
    app = _App(
        title="citus-cluster admin API",
        version=__version__,
        default_response_class=VisibleJSONResponse,
        lifespan=_lifespan,
        # FastAPI's documentation pages load scripts from a CDN, and could not send the token.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.configuration = configuration
    api = APIRouter(prefix=API_PREFIX, dependencies=[Security(bearer)], responses=COMMON_PROBLEMS)
    api.include_router(nodes.router)
    api.include_router(rebalance.router)
    api.include_router(services.router)
    app.include_router(api)
    app.include_router(health.router)
    # The middleware that is added last gets a request first.
    app.add_middleware(LimitBody, timeout_s=settings.body_timeout_s)
    app.add_middleware(RequireToken, configuration=configuration)
    app.add_middleware(AnswerHead)
    problems.install(app)
    return app


class _App(FastAPI):
    """Adds the schema of problems to the OpenAPI document, because no route returns it directly."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
            self.openapi_schema = document
        return self.openapi_schema


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    configuration: Configuration = app.state.configuration
    coordinator = Coordinator(settings, configuration)
    reconciler = Reconciler(settings, configuration)
    companions = CompanionWatch(settings, configuration)
    app.state.parts = Parts(
        settings=settings,
        configuration=configuration,
        coordinator=coordinator,
        reconciler=reconciler,
        companions=companions,
        active_workers=Shared(coordinator, nodes.read_active, timeout_s=settings.request_timeout_s),
        rebalance_status=Shared(coordinator, rebalance_status, timeout_s=settings.request_timeout_s),
    )
    loop = asyncio.create_task(reconciler.run(), name="reconciler") if settings.reconciler else None
    try:
        yield
    finally:
        if loop:
            loop.cancel()
            with suppress(asyncio.CancelledError, TimeoutError):
                # A check of a paused coordinator does not end on its own; the end of the process ends it.
                await asyncio.wait_for(asyncio.shield(loop), 1)
        await companions.close()
        await coordinator.close()
