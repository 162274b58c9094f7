"""The routes of declared changes and views: POST starts an operation, or shows its plan; GET reads."""

import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError, create_model
from starlette.datastructures import QueryParams
from starlette.routing import Route

from admin_api.dependencies import Parts, PartsOf, asker_of, parts_in
from admin_api.lists import openapi_parameters, read_query, refuse_unknown
from admin_api.problems import from_error
from admin_api.responses import VisibleJSONResponse, tagged
from admin_api.routing import DirectRoute, api_router
from admin_api.schemas import BODY_PROBLEMS, ChangeAnswer, OperationDocument, problems
from admin_api.settings import API_PREFIX
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.listing import ListQuery
from citus_cluster.model.operation import Operation, OperationState
from citus_cluster.model.parameters import adapter_of, refuse_nul
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.change import AnyChange, command_line
from citus_cluster.operations.journaled import Asker
from citus_cluster.operations.running import Running
from citus_cluster.operations.view import AnyView

_MAX_KEPT_QUERY = 1000
"""Bytes of a query whose meaning is kept."""
OPERATIONS = f"{API_PREFIX}/operations"
KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"
_END_S = 5.0
"""How long the end of a change may take in addition to its work."""
_LONGEST_WAIT_S = 60.0
"""How long a client may let the answer to a long change wait."""
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*(\d{1,4})(?:$|[,;\s])")
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=KEY_PATTERN,
        description="A new unique text for each change: a request that is repeated with the same key within 24 hours "
        "returns the operation that the first one started.",
    ),
]
Prefer = Annotated[
    str | None,
    Header(description="respond-async: answer 202 at once. wait=SECONDS: answer 202 after this time (RFC 7240)."),
]


@dataclass(frozen=True)
class Requested:
    """How a change is requested: whether for its plan alone, by whom, and with which key."""

    dry_run: bool
    asker: Asker
    key: str | None


async def requested(
    request: Request,
    dry_run: Annotated[bool, Query(description="Show the plan, and change nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Requested:
    """Read what all changes have in common. Raises UsageError for another parameter in the query."""
    # Otherwise, a mistyped dry_run would change something.
    refuse_unknown(request.query_params.keys() - {"dry_run"}, ["dry_run"])
    asker = asker_of(request)
    # No client can use the key of another one.
    return Requested(dry_run, asker, f"{asker.name} {idempotency_key}" if idempotency_key else None)


RequestedOf = Annotated[Requested, Depends(requested)]


def router(changes: Sequence[AnyChange], views: Sequence[AnyView]) -> APIRouter:
    """Return the routes of declared changes and views."""
    api = api_router("")
    for view in views:
        _add_view(api, view)
    for change in changes:
        _add_change(api, change)
    return api


def paths_of(api: APIRouter) -> Iterator[str]:
    """Yield the paths of a router that GET reads."""
    for route in api.routes:
        if isinstance(route, Route) and "GET" in (route.methods or ()):
            yield route.path


def address_of_view(view: AnyView) -> str:
    """Return the address at which a view is read."""
    return f"{API_PREFIX}/{view.path}"


def address_of(operation: Operation) -> str:
    """Return the address of an operation."""
    return f"{OPERATIONS}/{operation.id}"


def _add_view(api: APIRouter, view: AnyView) -> None:
    # Who polls a list sends the same query each time.
    @lru_cache(maxsize=64)
    def parse(text: bytes) -> tuple[Any, ListQuery | None]:
        return read_query(view, QueryParams(text))

    async def read(request: Request) -> Response:
        parts = parts_in(request)
        text: bytes = request.scope["query_string"]
        wanted, query = parse(text) if len(text) <= _MAX_KEPT_QUERY else read_query(view, request.query_params)
        snapshot = await parts.snapshots.get(view, wanted, is_following=bool(query and query.cursor))
        body, tag = snapshot.body(query)
        age = {"Age": str(parts.snapshots.age_s(snapshot))} if view.max_age_s else {}
        return tagged(request, body, tag, age)

    api.add_api_route(
        f"/{view.path}",
        read,
        methods=["GET"],
        summary=view.summary.rstrip("."),
        operation_id=view.name,
        tags=[view.path.partition("/")[0]],
        response_model=_answer_of(view),
        responses=problems(404, 422),
        openapi_extra={"parameters": openapi_parameters(view)},
        route_class_override=DirectRoute,
    )


def _answer_of(view: AnyView) -> type[BaseModel]:
    name = "".join(word.capitalize() for word in view.name.split("-"))
    row: Any = view.row
    if view.is_list:
        shown: dict[str, Any] = {"items": list[row], "next_cursor": str | None, "total": int, "as_of": str}
    else:
        shown = {one.name: one.type for one in fields(row)} | {"as_of": str}
    model: type[BaseModel] = create_model(
        f"{name}{'Page' if view.is_list else 'Answer'}",
        __doc__=f"{'One page of the answer' if view.is_list else 'The answer'} to: {view.summary}",
        __module__=row.__module__,
        **cast("Any", {field: (kind, ...) for field, kind in shown.items()}),
    )
    return model


def _add_change(api: APIRouter, change: AnyChange) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        200: {"model": ChangeAnswer, "description": "It is done, or, with dry_run, its plan."},
        202: {
            "model": OperationDocument,
            "description": "It runs; Location is the address of the operation, or of the progress of what it started.",
        },
        **problems(*BODY_PROBLEMS, 404, 409, 429, 502),
    }
    if change.creates:
        responses[201] = {"model": OperationDocument, "description": "It is done, and something new exists."}
    api.add_api_route(
        f"/{change.path}",
        _handler(change),
        methods=["POST"],
        summary=change.summary.rstrip("."),
        description=_describe(change),
        operation_id=change.name,
        tags=[change.path.partition("/")[0]],
        responses=responses,
        response_model=None,
    )


def _describe(change: AnyChange) -> str:
    how = "It can take minutes, so it answers 202." if change.lasts is True else "It answers when it has ended."
    if callable(change.lasts):
        how = "It answers when it has ended, and 202 if it takes longer."
    return f"{change.summary} {how} The same as a command: `citus-cluster {change.command}`."


def _handler(change: AnyChange) -> Callable[..., Coroutine[Any, Any, Response]]:
    shape: Any = change.parameters
    is_optional = all(one.default is not MISSING or one.default_factory is not MISSING for one in fields(shape))

    async def post(request: Request, parts: PartsOf, how: RequestedOf, wanted: Any, prefer: Prefer = None) -> Response:
        wanted = shape() if wanted is None else _strictly(shape, await request.body())
        if how.dry_run:
            preview = await parts.operations.plan(change, wanted)
            return answer_plan(change.name, command_line(change, wanted), preview)
        running = await parts.operations.begin(change, wanted, how.asker, key=how.key)
        usual_s = 0.2 if change.takes_long(wanted) else longest_s(parts, change)
        return await answer(running, usual_s if change.shows_once(wanted) else _wait_s(prefer, usual_s))

    post.__annotations__["wanted"] = shape | None if is_optional else shape
    if is_optional:
        post.__defaults__ = (None, *(post.__defaults__ or ()))
    return post


def answer_plan(kind: str, command: str, preview: Preview) -> Response:
    """Answer a request that shows the plan only."""
    return VisibleJSONResponse({"dry_run": True, "kind": kind, "command": command, "plan": preview.as_dict()})


def longest_s(parts: Parts, change: AnyChange) -> float:
    """Return more than the work of a short change may take, so that one that is too slow answers 504."""
    return parts.settings.limit_s(plans_long=change.plans_long) + _END_S


def _strictly(shape: Any, body: bytes) -> Any:
    """Read a body that is valid JSON for the shape, but may have other types: 1 for true, "5" for 5."""
    try:
        found = adapter_of(shape).validate_json(body, strict=True)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None
    refuse_nul(found)
    return found


def _wait_s(prefer: str | None, default_s: float) -> float:
    if prefer is None:
        return default_s
    if "respond-async" in prefer:
        return 0
    found = _WAIT.search(prefer)
    return min(float(found[1]), max(default_s, _LONGEST_WAIT_S)) if found else default_s


async def answer(running: Running, wait_s: float) -> Response:
    """Answer with the operation: at its end if that comes within this time, else with 202 and its address."""
    address = address_of(running.operation)
    if not await running.ended(wait_s):
        headers = {"Location": address, "Retry-After": "1"}
        return VisibleJSONResponse(running.operation.as_dict(), HTTPStatus.ACCEPTED, headers=headers)
    operation = running.operation
    if isinstance(running.failure, CitusClusterError):
        return from_error(running.failure, operation=address)
    if running.failure is not None:
        raise running.failure
    status = HTTPStatus.OK
    if operation.state is OperationState.DONE and operation.result is not None:
        if running.change.creates and running.change.creates(operation.result):
            status = HTTPStatus.CREATED
        if running.change.progress and (path := running.change.progress(operation.result)):
            status, address = HTTPStatus.ACCEPTED, f"{API_PREFIX}/{path}"
    content = operation.as_dict()
    once = getattr(running.outcome, "once", None)
    return VisibleJSONResponse(
        {**content, "secrets": dict(once)} if once else content, status, headers={"Location": address}
    )
