"""All pages together, and the navigation between them: a page is offered only if the API has what it shows."""

from fastapi import APIRouter, FastAPI

from admin_api.pages import activity, cluster, declared, entrance, operations, rebalance, reference, services, shards
from admin_api.pages.beside import Beside
from admin_api.pages.html import Place

_PLACES = (
    (None, Place("Cluster", "/")),
    ("tables-list", Place("Tables", "/views/tables-list")),
    (shards.GROUPS, Place("Shards", "/shards")),
    (None, Place("Rebalance", "/rebalance")),
    (activity.LIST, Place("Activity", "/activity")),
    ("activity-tenants", Place("Tenants", "/views/activity-tenants")),
    (None, Place("Services", "/services")),
    (None, Place("Operations", "/operations")),
    (None, Place("All", "/all")),
    (None, Place("API", "/docs")),
)
"""Each page of the navigation, and the view that it needs."""


def page_routers(app: FastAPI) -> tuple[APIRouter, ...]:
    """Return the routers of the pages for an app whose state has its views and changes; write its navigation there."""
    views = app.state.views
    app.state.beside = Beside()
    app.state.places = tuple(place for needed, place in _PLACES if needed is None or needed in views)
    pages = (entrance, cluster, declared, operations, shards, rebalance, activity, services, reference)
    return tuple(one.routes for one in pages)
