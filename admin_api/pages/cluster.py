"""The first page: what needs attention, the nodes, and the latest operations."""

import asyncio
from typing import Any

from fastapi import Request, Response

from admin_api.dependencies import Parts, PartsOf
from admin_api.pages import attention
from admin_api.pages.attention import Attention
from admin_api.pages.beside import FAILURES, Beside, read_view
from admin_api.pages.declared import read_list, views_of
from admin_api.pages.html import render
from admin_api.pages.routing import router
from admin_api.routes.health import look_at_citus, own_disk
from admin_api.sampler import Part
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.figures import CROWDED_PART
from citus_cluster.model.disks import ALARMED_PART, WARNED_PART
from citus_cluster.model.documents import as_data
from citus_cluster.operations.nodes.views import WATCHED

routes = router()
NODES, DRIFT, DIAGNOSIS, STATE = "nodes-list", "cluster-drift", "rebalance-diagnosis", "cluster-show"
OTHERS = (DRIFT, DIAGNOSIS, STATE)
SHOWN_OPERATIONS = 6


@routes.get("/")
async def show(request: Request, parts: PartsOf) -> Response:
    """Show the cluster, even if its coordinator does not answer."""
    citus = await look_at_citus(parts)
    found: list[Attention] = []
    listing, state = None, None
    if citus.refusal is not None:
        found.append(Attention("bad", citus.refusal.message, citus.refusal.hint))
    else:
        listing, state = await _of_coordinator(request, parts, found)
    if citus.reason and not any(one.tone == "bad" for one in found):
        found.append(Attention("careful", citus.reason))
    sample = parts.sampler.known()
    figures = sample.answers.figures
    disks = [one.disk for one in figures.values() if one.disk] or list(parts.reconciler.disks)
    found += attention.of_figures(figures)
    found += attention.of_disks([*disks, own_disk()])
    companions = await parts.known_companions(within_s=parts.settings.companion_timeout_s)
    found += attention.of_companions(companions)
    found += attention.of_operations(await parts.operations.latest_of_kinds())
    operations, _ = await parts.operations.page(SHOWN_OPERATIONS)
    context = {
        "attention": attention.in_order(found),
        "nodes": listing,
        "state": state,
        "companions": companions,
        "figures": {str(node): one for node, one in figures.items()},
        "figures_at": sample.as_of(Part.NODES),
        "loads": {str(node): one for node, one in sample.loads.items()},
        "has_lag": any(one.lag_bytes is not None for one in figures.values()),
        "crowded": CROWDED_PART,
        "full": (WARNED_PART, ALARMED_PART),
        "operations": [one.as_dict() for one in operations],
    }
    return render(request, "cluster.html", context)


async def _of_coordinator(request: Request, parts: Parts, found: list[Attention]) -> tuple[Any, Any]:
    """Read what the coordinator knows. What cannot be read needs attention, and hides nothing else."""
    views = views_of(request)
    beside: Beside = request.app.state.beside
    reading = None
    if NODES in views:
        reading = asyncio.create_task(read_list(request, parts, WATCHED, defaults={"limit": "200"}))
        # The nodes come first, also in the line for a connection.
        await asyncio.sleep(0)
    beside.begin((name for name in OTHERS if name in views), lambda name: read_view(parts, views[name]))
    listing = None
    try:
        if reading is not None:
            listing = await reading
            found += attention.of_nodes(listing.raw)
    except FAILURES as error:
        message = error.message if isinstance(error, CitusClusterError) else "The coordinator did not answer in time."
        found.append(Attention("bad", message, getattr(error, "hint", None)))
    silent = {row.node for row in listing.raw if row.answers is False} if listing else set()
    # While a node is silent, the others take seconds, and the page should say so now.
    values = await (beside.values(patience_s=0) if silent else beside.values())
    found += attention.of_drift(values.get(DRIFT) or (), silent)
    found += attention.of_diagnosis(values.get(DIAGNOSIS) or (), silent)
    state = values.get(STATE)
    return listing, as_data(state) if state is not None else None
