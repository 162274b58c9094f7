"""The pages of operations: the list, and one with its plan, its events as they come, and its result."""

from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import QueryParams

from admin_api.dependencies import PartsOf, asker_of
from admin_api.lists import read_query
from admin_api.pages.html import render
from admin_api.pages.routing import router
from admin_api.routes.operations import LIST, OperationId, page_of
from citus_cluster.model.operation import OperationState
from citus_cluster.model.plan.events import EventKind

routes = router()
PAGE_ROWS = 50
MAX_EVENTS = 300
"""Events that the page of an operation shows: the latest ones."""


@routes.get("/operations")
async def list_operations(request: Request, parts: PartsOf) -> Response:
    given = [(name, value) for name, value in request.query_params.multi_items() if value != ""]
    if "limit" not in dict(given):
        given.append(("limit", str(PAGE_ROWS)))
    _, query = read_query(LIST, QueryParams(given))
    assert query is not None  # noqa: S101 - it is a list
    page = await page_of(parts.operations, replace(query, limit=min(query.limit, 200)))
    context = {
        "operations": page.items,
        "total": page.total,
        "next_cursor": page.next_cursor,
        "state": request.query_params.get("state", ""),
        "q": request.query_params.get("q", ""),
        "states": [state.value for state in OperationState],
        "is_durable": parts.operations.is_durable,
    }
    return render(request, "operations.html", context)


@routes.get("/operations/{operation_id}")
async def show_operation(request: Request, parts: PartsOf, operation_id: OperationId) -> Response:
    operation = await parts.operations.get(operation_id)
    events = [one.as_dict() for one in await parts.operations.events(operation_id)]
    document = operation.as_dict()
    context: dict[str, Any] = {
        "operation": document,
        "events": events[-MAX_EVENTS:],
        "left_out": max(0, len(events) - MAX_EVENTS),
        "last_number": events[-1]["number"] if events else 0,
        "done_part": _done_part(events),
        "is_running": operation.state is OperationState.RUNNING,
        "can_resume": operation.is_final and operation.state is not OperationState.DONE and operation.resumable,
    }
    return render(request, "operation.html", context)


@routes.post("/operations/{operation_id}/cancel")
async def cancel(request: Request, parts: PartsOf, operation_id: OperationId) -> Response:
    await parts.operations.cancel(operation_id, asker_of(request))
    return RedirectResponse(f"/operations/{operation_id}", 303)


@routes.post("/operations/{operation_id}/resume")
async def resume(request: Request, parts: PartsOf, operation_id: OperationId) -> Response:
    await parts.operations.resume(operation_id, asker_of(request))
    return RedirectResponse(f"/operations/{operation_id}", 303)


def _done_part(events: list[dict[str, Any]]) -> float | None:
    """Return the part of the bytes that has moved, by the latest report of a rebalance; None for other changes."""
    for event in reversed(events):
        if event["kind"] == EventKind.PROGRESS.value and event["data"].get("bytes_total"):
            return float((event["data"]["bytes_done"] or 0) / event["data"]["bytes_total"])
    return None
