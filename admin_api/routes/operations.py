"""Operations: list, show, cancel, resume, and follow their events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

from fastapi import Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from admin_api.dependencies import PartsOf
from admin_api.lists import FIELDS, openapi_parameters, read_fields, read_query
from admin_api.responses import VisibleJSONResponse, tagged_json
from admin_api.routes.declared import RequestedOf, answer, answer_plan
from admin_api.routing import api_router
from admin_api.schemas import ChangeAnswer, EventsDocument, OperationDocument, OperationPage, problems
from citus_cluster.errors import UsageError
from citus_cluster.model.listing import MAX_LIMIT, Listing, ListQuery, Page
from citus_cluster.model.operation import Operation
from citus_cluster.model.visible import json_text
from citus_cluster.operations.running import Operations
from citus_cluster.operations.view import View

router = api_router("/operations", "operations")
EVENT_STREAM = "text/event-stream"
STREAM_S = 300.0
"""How long one stream lasts. Its client continues it with a new request, whose token is checked again."""
OperationId = Annotated[int, Path(ge=1, le=2**53, description="Id of the operation.")]


async def _unread(*_: object) -> object:
    raise NotImplementedError


LIST = View("operations-list", "List operations.", "operations", "", Operation, _unread, key="id")
"""Declares the rows, for their filters. They are read from the record of this API, not from the cluster."""


async def page_of(operations: Operations, query: ListQuery) -> Page:
    """Cut a page of operations, by default the newest first: then only its rows are read from the record."""
    query = replace(query, sort=query.sort or ("-id",))
    if query.sort != ("-id",) or query.q or query.filters:
        return Listing(await operations.latest(), Operation, "id").page(query)
    before = Listing((), Operation, "id").place(query).get("id")
    # One more row than is shown tells whether there is another page.
    rows, total = await operations.page(min(query.limit, MAX_LIMIT) + 1, before)
    found = Listing(rows, Operation, "id").page(replace(query, cursor=None))
    return replace(found, total=total)


@router.get(
    "",
    summary="List operations, the newest first",
    operation_id="operations-list",
    response_model=OperationPage,
    responses=problems(422),
    openapi_extra={"parameters": openapi_parameters(LIST)},
)
async def list_operations(request: Request, parts: PartsOf) -> Response:
    _, query = read_query(LIST, request.query_params)
    assert query is not None  # noqa: S101 - it is a list
    page = await page_of(parts.operations, query)
    return tagged_json(request, {"items": list(page.items), "next_cursor": page.next_cursor, "total": page.total})


@router.get(
    "/{operation_id}",
    summary="Show an operation with its plan and its result",
    operation_id="operations-get",
    response_model=OperationDocument,
    responses=problems(404, 422),
    openapi_extra={"parameters": [FIELDS]},
)
async def show(request: Request, parts: PartsOf, operation_id: OperationId) -> Response:
    query = ListQuery(fields=read_fields(request.query_params))
    (found,) = Listing([await parts.operations.get(operation_id)], Operation, "id").page(query).items
    return tagged_json(request, found)


@router.get(
    "/{operation_id}/events",
    summary="List the events of an operation, or follow them",
    operation_id="operations-events",
    response_model=EventsDocument,
    responses={
        200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}, "description": "The events, or their stream."},
        **problems(404, 422),
    },
)
async def events(
    request: Request,
    parts: PartsOf,
    operation_id: OperationId,
    after: Annotated[int, Query(ge=0, le=2**53, description="Only events with a greater number.")] = 0,
    last_event_id: Annotated[str | None, Header(description="The id of the last event that was received.")] = None,
) -> Response:
    """With `Accept: text/event-stream`, answer as server-sent events until the operation has ended.

    The id of each event is its number, so a stream that was cut off continues with `Last-Event-ID`; a stream lasts
    five minutes at most. The last event is `end`, with the operation.
    """
    if last_event_id is not None:
        if not last_event_id.isdecimal() or len(last_event_id) > 15:
            raise UsageError("Last-Event-ID is not the number of an event.")
        after = int(last_event_id)
    if EVENT_STREAM not in request.headers.get("accept", ""):
        found = await parts.operations.events(operation_id, after)
        return VisibleJSONResponse({"items": [one.as_dict() for one in found]})
    await parts.operations.get(operation_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(parts.operations, operation_id, after), media_type=EVENT_STREAM, headers=headers)


async def _stream(operations: Operations, operation_id: int, after: int) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    now = asyncio.get_running_loop().time
    until = now() + STREAM_S
    async with aclosing(operations.follow(operation_id, after)) as followed:
        async for event in followed:
            if event is None:
                yield ": nothing new\n\n"
            else:
                data = json_text(event.as_dict(), compact=True)
                yield f"id: {event.number}\nevent: {event.kind.value}\ndata: {data}\n\n"
            if now() >= until:
                return
    ended = await operations.get(operation_id)
    yield f"event: end\ndata: {json_text(ended.as_dict(), compact=True)}\n\n"


@router.post(
    "/{operation_id}/cancel",
    summary="Cancel a running operation; what it has done stays done",
    operation_id="operations-cancel",
    response_model=ChangeAnswer,
    responses=problems(404, 409, 422, 429),
)
async def cancel(parts: PartsOf, operation_id: OperationId, how: RequestedOf) -> Response:
    if how.dry_run:
        preview = await parts.operations.plan_cancel(operation_id)
        return answer_plan("operations-cancel", f"citus-cluster operations cancel {operation_id}", preview)
    return VisibleJSONResponse((await parts.operations.cancel(operation_id, how.asker, key=how.key)).as_dict())


@router.post(
    "/{operation_id}/resume",
    summary="Run an operation again that was interrupted, was cancelled, or failed",
    operation_id="operations-resume",
    responses={
        200: {"model": ChangeAnswer, "description": "With dry_run, its plan; to a repeated request, its end."},
        202: {"model": OperationDocument, "description": "It runs; Location is the address of the operation."},
        **problems(404, 409, 422, 429),
    },
    response_model=None,
)
async def resume(parts: PartsOf, operation_id: OperationId, how: RequestedOf) -> Response:
    """Its steps check what is done already, and skip it."""
    if how.dry_run:
        preview = await parts.operations.plan_resume(operation_id)
        return answer_plan("operations-resume", f"citus-cluster operations resume {operation_id}", preview)
    return await answer(await parts.operations.resume(operation_id, how.asker, key=how.key), 0)
