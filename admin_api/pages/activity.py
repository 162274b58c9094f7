"""The page of what runs now: statements of the whole cluster, and lock waits as a tree."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response

from admin_api.dependencies import PartsOf
from admin_api.identity import identity_of
from admin_api.pages.declared import actions_for, changes_of, read_list, row_actions, views_of
from admin_api.pages.html import may_change, render
from admin_api.pages.routing import router
from citus_cluster.errors import NotFoundError
from citus_cluster.model.documents import as_data
from citus_cluster.model.parameters import NoParameters
from citus_cluster.operations.activity.changes import ENABLE

LIST, LOCKS, FEATURES = "activity-list", "activity-locks", "activity-features"
MAX_WAITS = 200
DEEPEST = 7
"""Levels of the tree that are indented."""
routes = router()


@routes.get("/activity")
async def show(request: Request, parts: PartsOf) -> Response:
    views = views_of(request)
    if LIST not in views:
        raise NotFoundError("This API has no view of statements.")
    listing = await read_list(request, parts, views[LIST], defaults={"sort": "-seconds"})
    waits: Sequence[Any] = ()
    actions: list[Any] = []
    if LOCKS in views:
        snapshot = await parts.snapshots.get(views[LOCKS], NoParameters())
        waits = [as_data(row) for row in snapshot.value[:MAX_WAITS]]
        applicable = actions_for(views[LOCKS], changes_of(request)) if may_change(identity_of(request.scope)) else ()
        actions = [row_actions(applicable, row) for row in waits]
    context: dict[str, Any] = {
        "listing": listing,
        "waits": list(zip(waits, actions, strict=True)) if actions else [],
        "deepest": DEEPEST,
        "idle": request.query_params.get("idle", ""),
        "more": [views[name] for name in ("activity-statements", "activity-tenants") if name in views],
        "features": [],
        "enable": changes_of(request).get(ENABLE.name),
    }
    # What is switched on changes rarely, so a refresh of the statements does without it.
    if FEATURES in views and request.headers.get("hx-request") != "true":
        context["features"] = (await parts.snapshots.get(views[FEATURES], NoParameters())).value
    return render(request, "activity.html", context)
