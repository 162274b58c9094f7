"""The page of rebalances: progress, what blocks, and the plan of the next one."""

from collections import deque
from datetime import datetime
from typing import Any

import psycopg
from fastapi import Request, Response

from admin_api.dependencies import Parts, PartsOf
from admin_api.pages.beside import Beside, read_view
from admin_api.pages.declared import changes_of, views_of
from admin_api.pages.html import render
from admin_api.pages.routing import router
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.documents import as_data

DIAGNOSIS = "rebalance-diagnosis"
START, STOP, REPAIR = "rebalance-start", "rebalance-stop", "rebalance-repair"
KEPT_SAMPLES = 300
"""Samples of the chart: ten minutes, while somebody looks at the page."""
routes = router()


@routes.get("/rebalance")
async def show(request: Request, parts: PartsOf, plan: bool = False) -> Response:
    """Show the page at once. With ``plan``, it waits for the plan of the next rebalance: up to minutes."""
    status = (await parts.rebalance_status.answer()).as_dict()
    views, changes = views_of(request), changes_of(request)
    is_running = status["state"] in {"running", "scheduled", "cancelling", "failing"}
    context: dict[str, Any] = {
        "status": status,
        "is_running": is_running,
        "wants_plan": plan,
        "chart": _sample(request, status) if is_running else None,
        "diagnosis": [],
        "plan": None,
        "plan_error": None,
        "start": changes.get(START),
        "stop": changes.get(STOP),
        "repair": changes.get(REPAIR),
        "has_history": "rebalance-history" in views,
        "has_tasks": "rebalance-tasks" in views,
    }
    if DIAGNOSIS in views:
        beside: Beside = request.app.state.beside
        beside.begin([DIAGNOSIS], lambda name: read_view(parts, views[name]))
        # While a node is silent, it takes seconds.
        found = (await beside.values()).get(DIAGNOSIS)
        context["diagnosis"] = None if found is None else as_data(list(found))
    if plan and not is_running and START in changes:
        context |= await _plan(request, parts)
    return render(request, "rebalance.html", context)


async def _plan(request: Request, parts: Parts) -> dict[str, Any]:
    change = changes_of(request)[START]
    try:
        return {"plan": (await parts.operations.plan(change, change.parameters())).as_dict()}
    except CitusClusterError as error:
        return {"plan_error": error}
    except (psycopg.OperationalError, psycopg.errors.QueryCanceled, TimeoutError):
        limit_s = parts.settings.plan_timeout_s
        return {
            "plan_error": CitusClusterError(
                f"The plan could not be read: the coordinator did not finish it (limit {limit_s:g} s). A node may not "
                "answer, or a session may hold a lock that the plan needs.",
                hint="See on the page Cluster which nodes answer, and on the page Activity who holds locks. "
                "Then read the plan again.",
            )
        }


def _sample(request: Request, status: dict[str, Any]) -> dict[str, Any] | None:
    """Remember the figures of the progress, and return all of this job as a chart."""
    kept: deque[tuple[int, str, float | None, float | None]] | None
    kept = getattr(request.app.state, "rebalance_samples", None)
    if kept is None:
        kept = request.app.state.rebalance_samples = deque(maxlen=KEPT_SAMPLES)
    at = status["observed_at"]
    if at and status["bytes_done"] is not None and (not kept or kept[-1][1] != at):
        kept.append((status["job_id"], at, status["bytes_done"], status["bytes_total"]))
    own = [one for one in kept if one[0] == status["job_id"]]
    if len(own) < 2:
        return None
    return {
        "title": "Bytes moved",
        "unit": "bytes",
        "names": ["moved", "in all"],
        "data": [[_seconds(one[1]) for one in own], [one[2] for one in own], [one[3] for one in own]],
    }


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
