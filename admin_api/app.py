"""The factory of the admin API: routes, middleware, and the objects that live as long as the app."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from fastapi import FastAPI

from admin_api import problems
from admin_api.access_log import LogRequests
from admin_api.auth import Authenticator, RequireToken
from admin_api.bodies import LimitBody
from admin_api.companions import CompanionWatch
from admin_api.configuration import Configuration
from admin_api.coordinator import Coordinator, Shared, connection_info
from admin_api.cors import AllowOrigins
from admin_api.dependencies import Parts
from admin_api.examples import add_examples
from admin_api.http_metrics import CountRequests, NoteRoute
from admin_api.methods import AnswerHead
from admin_api.metrics import Metrics
from admin_api.pages.routing import missing_page, refuse_page
from admin_api.pages.site import page_routers
from admin_api.reconciler import Reconciler
from admin_api.request_context import running_operation
from admin_api.responses import VisibleJSONResponse
from admin_api.routes import declared, health, metrics, nodes, operations, rebalance, services
from admin_api.routing import add_routes
from admin_api.sampler import Sampler
from admin_api.schemas import Problem
from admin_api.sessions import Sessions
from admin_api.settings import Settings
from admin_api.snapshots import Snapshots
from citus_cluster import __version__
from citus_cluster.errors import ReaderRefusedError, UnreachableError
from citus_cluster.operations.change import AnyChange
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.operations.inventory import look
from citus_cluster.operations.journaled import of_container
from citus_cluster.operations.liveness import Liveness
from citus_cluster.operations.rebalance.watch import status as rebalance_status
from citus_cluster.operations.registry import CHANGES, VIEWS
from citus_cluster.operations.running import Operations
from citus_cluster.operations.view import AnyView
from citus_cluster.runtime.store.operations import OperationStore, StoreError

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None,
    changes: Sequence[AnyChange] = CHANGES,
    views: Sequence[AnyView] = VIEWS,
) -> FastAPI:
    """Create the app, which offers these changes and views. It opens nothing before its lifespan.

    By default, its settings come from the environment.
    """
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
    app.state.authenticator = Authenticator(settings, configuration)
    app.state.sessions = Sessions(
        app.state.authenticator.identify, public_origins=lambda: configuration.cluster().public_origins
    )
    app.state.changes = {change.name: change for change in changes}
    app.state.views = {view.name: view for view in views}
    app.state.metrics = Metrics()
    routers = [one.router for one in (nodes, rebalance, services, operations, health, metrics)]
    served = {path for one in routers for path in declared.paths_of(one)}
    routers.append(declared.router(changes, [view for view in views if declared.address_of_view(view) not in served]))
    add_routes(app, [*routers, *page_routers(app)])
    # The middleware that is added last gets a request first.
    app.add_middleware(NoteRoute)
    app.add_middleware(LimitBody, timeout_s=settings.body_timeout_s)
    app.add_middleware(
        RequireToken,
        authenticator=app.state.authenticator,
        sessions=app.state.sessions,
        refuse_page=refuse_page,
    )
    problems.install(app, missing_page)
    app.add_middleware(AllowOrigins, configuration=configuration)
    app.add_middleware(LogRequests)
    app.add_middleware(AnswerHead)
    # Last, so that it also counts requests that another middleware refuses.
    app.add_middleware(CountRequests, figures=app.state.metrics.http)
    return app


class _App(FastAPI):
    """Adds to the OpenAPI document the schema of problems, which no route returns directly, and examples of answers."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
            add_examples(document)
            self.openapi_schema = document
        return self.openapi_schema


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    configuration: Configuration = app.state.configuration
    coordinator = Coordinator(settings, configuration, lambda number, ahead: operations.report_wait(number, ahead))
    reconciler = Reconciler(settings, configuration, coordinator.reader)
    companions = CompanionWatch(settings, configuration)
    liveness = Liveness()

    def cluster_for(change: AnyChange | None, parameters: object) -> Cluster:
        """Return the cluster for a change with its parameters, or, without one, for a plan."""
        if change is None:
            # Like a change, so that many plans at once leave a connection to requests that only read.
            return cluster(coordinator.changing(timeout_s=settings.plan_timeout_s))
        if change.takes_long(parameters):
            return cluster(coordinator.lasting())
        return cluster(coordinator.changing(timeout_s=settings.limit_s(plans_long=change.plans_long)))

    def cluster(on_coordinator: OnCoordinator) -> Cluster:
        wanted = configuration.cluster()
        info = connection_info(wanted, configuration)
        return Cluster(
            on_coordinator,
            info,
            coordinator=wanted.coordinator_address,
            workers=wanted.workers,
            patience_s=lambda: settings.register_timeout_s,
            lock_wait_s=settings.lock_timeout_s,
            liveness=liveness,
        )

    def reading() -> Cluster:
        return cluster(coordinator.reading(timeout_s=settings.plan_timeout_s))

    # Not shared: nodes that are silent for one role may answer the other.
    of_reader = Liveness()

    def read_only_cluster() -> Cluster | None:
        """Return the cluster as the role sees it that only reads; None while this role cannot be used."""
        if not coordinator.reader.ready:
            return None
        return replace(cluster(coordinator.reading_little(timeout_s=settings.plan_timeout_s)), liveness=of_reader)

    def doubt(error: Exception) -> None:
        if isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
            return  # Something in the cluster, such as a private schema, is the superuser's; the role is all right.
        if isinstance(error, ReaderRefusedError | UnreachableError | psycopg.OperationalError):
            coordinator.reader.doubt()

    operations = Operations(
        OperationStore(_store_path(settings.data_folder)),
        app.state.changes,
        cluster_for,
        lambda asker: of_container(settings.journal_folder, asker),
        lambda number: running_operation(str(number)),
        lambda _: look(reading()),
        ended=lambda: reconciler.wake(),
    )
    parts = app.state.parts = Parts(
        settings=settings,
        configuration=configuration,
        coordinator=coordinator,
        reconciler=reconciler,
        companions=companions,
        snapshots=Snapshots(reading, read_only_cluster, doubt),
        operations=operations,
        active_workers=Shared(coordinator, nodes.read_active, timeout_s=settings.request_timeout_s),
        rebalance_status=Shared(coordinator, rebalance_status, timeout_s=settings.request_timeout_s),
        sampler=Sampler(
            settings,
            coordinator.dial,
            lambda: parts.known_companions(within_s=settings.companion_timeout_s + 1),
        ),
        metrics=app.state.metrics,
    )
    try:
        await operations.open()
    except StoreError as error:
        # Views still work, and each change says why it is refused.
        logger.error("%s", error.message)
    loop = asyncio.create_task(reconciler.run(), name="reconciler") if settings.reconciler else None
    try:
        yield
    finally:
        if loop:
            loop.cancel()
            with suppress(asyncio.CancelledError, TimeoutError):
                # A check of a paused coordinator does not end on its own; the end of the process ends it.
                await asyncio.wait_for(asyncio.shield(loop), 1)
        await operations.close()
        await parts.sampler.close()
        await companions.close()
        await coordinator.close()


def _store_path(folder: Path) -> Path | None:
    """Return the file of the record of operations; None, which keeps it in memory, without a folder to write."""
    if folder.is_dir() and os.access(folder, os.W_OK):
        return folder / "operations.sqlite"
    logger.warning("%s cannot be written, so operations are forgotten when this process ends", folder)
    return None
