"""The pages of every declared view and change: a list, and a form that shows the plan before anything runs."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import QueryParams

from admin_api.dependencies import Parts, PartsOf, asker_of
from admin_api.identity import identity_of
from admin_api.lists import read_query
from admin_api.pages import forms
from admin_api.pages.actions import Action, form_url, short_title
from admin_api.pages.html import may_change, render
from admin_api.pages.routing import field, form_of, require_admin, router
from admin_api.routes.declared import longest_s
from citus_cluster.errors import CitusClusterError, NotFoundError, UsageError
from citus_cluster.model.citus.statistics import FeatureOffError
from citus_cluster.model.documents import as_data
from citus_cluster.model.listing import ListQuery, types_of
from citus_cluster.model.parameters import read_parameters
from citus_cluster.operations.activity.changes import ENABLE
from citus_cluster.operations.change import AnyChange, command_line
from citus_cluster.operations.view import AnyView
from citus_cluster.runtime.store.operations import OperationRunningError

PAGE_ROWS = 100
MAX_ROWS = 200
"""Rows of one page of HTML: with more of them, a page would grow beyond 500 kB."""
FINISHES_WITHIN_S = 1.0
"""How long the answer to a short change waits for its end, so that the next page shows it."""
_COLUMNS = {"name": "role", "names": "node", "shard": "shard_id"}
"""Columns with the values of parameters of other names."""
routes = router()


def views_of(request: Request) -> Mapping[str, AnyView]:
    views: Mapping[str, AnyView] = request.app.state.views
    return views


def changes_of(request: Request) -> Mapping[str, AnyChange]:
    changes: Mapping[str, AnyChange] = request.app.state.changes
    return changes


def enable_action(changes: Mapping[str, AnyChange], off: FeatureOffError) -> Action | None:
    """Return the link that switches statistics on; None if a server must be restarted first."""
    change = changes.get(ENABLE.name)
    if change is None or off.needs_restart:
        return None
    values = {"feature": off.feature.value} | ({"every_node": forms.YES} if off.every_node else {})
    return Action("Turn on…", form_url(change, values))


def noun_of(one: AnyChange | AnyView) -> str:
    """Return what a change or a view is about: ``nodes``, ``tables``."""
    return one.command.partition(" ")[0]


Applicable = tuple[AnyChange, Mapping[str, str]]
"""A change, and the columns of a row with the values of its parameters."""


def actions_for(view: AnyView, changes: Mapping[str, AnyChange]) -> tuple[Applicable, ...]:
    """Return the changes that apply to a row of a view: those of the same noun whose first parameter names the row.

    What else a change needs, such as another node, is left to the form. A change that creates something does not apply
    to what exists.
    """
    if not view.is_list:
        return ()
    columns = set(types_of(view.row))
    found = []
    for change in changes.values():
        subject = next((one.name for one in forms.fields_of(change.parameters) if one.is_required), "")
        column = subject if subject in columns else _COLUMNS.get(subject)
        if change.creates is None and noun_of(change) == noun_of(view) and column in columns:
            # Values that identify the row more exactly, such as when a statement began.
            exact = [one.name for one in fields(change.parameters) if one.name == "started_at" and one.name in columns]
            found.append((change, {subject: column} | {name: name for name in exact}))
    return tuple(found)


def row_actions(applicable: Sequence[Applicable], row: Mapping[str, Any]) -> tuple[Action, ...]:
    """Return the links of one row."""
    found = []
    for change, columns in applicable:
        values = {name: row.get(column) for name, column in columns.items()}
        if all(value is not None for name, value in values.items() if name != "started_at"):
            given = {name: value for name, value in values.items() if value is not None}
            found.append(Action(short_title(change.name), form_url(change, given)))
    return tuple(found)


@dataclass(frozen=True)
class ListPage:
    """A page of a list, for the template."""

    view: AnyView
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    total: int
    next_url: str | None
    as_of: Any
    query: ListQuery
    sorts: Mapping[str, str]
    actions: tuple[tuple[Action, ...], ...]
    raw: tuple[Any, ...]
    """The rows of the whole list as the view has read them, in its own order."""
    filters: tuple[tuple[str, str], ...]

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the columns to draw: a column for problems only if a row has one."""
        return tuple(
            one for one in self.columns if one not in {"problem", "reason"} or any(row[one] for row in self.rows)
        )

    def actions_of(self, key: object) -> tuple[Action, ...]:
        """Return the links of the row with this key, if it is on the page."""
        place = next((at for at, row in enumerate(self.rows) if row[self.view.key or ""] == key), None)
        return () if place is None else self.actions[place]


async def read_list(
    request: Request, parts: Parts, view: AnyView, *, path: str | None = None, defaults: Mapping[str, str] | None = None
) -> ListPage:
    """Read a page of a view, with the parameters of the API in the query. Raises UsageError."""
    given = [(name, value) for name, value in request.query_params.multi_items() if value != ""]
    for name, value in (defaults or {}).items():
        if name not in dict(given):
            given.append((name, value))
    if "limit" not in dict(given):
        given.append(("limit", str(PAGE_ROWS)))
    limit = dict(given)["limit"]
    if limit.isdecimal() and len(limit) < 6 and int(limit) > MAX_ROWS:
        raise UsageError(f"A page has at most {MAX_ROWS} rows.", hint="The API and the command line show more at once.")
    wanted, query = read_query(view, QueryParams(given))
    assert query is not None  # noqa: S101 - it is a list
    snapshot = await parts.snapshots.get(view, wanted, is_following=query.cursor is not None)
    assert snapshot.listing is not None  # noqa: S101
    # The row's links need all of its fields.
    columns = query.fields or view.columns or tuple(types_of(view.row))
    page = snapshot.listing.page(ListQuery(query.limit, query.cursor, query.sort, (), query.q, query.filters))
    base = path or request.url.path
    rest = [(name, value) for name, value in given if name not in {"cursor", "sort"}]
    applicable = actions_for(view, changes_of(request)) if may_change(identity_of(request.scope)) else ()
    return ListPage(
        view=view,
        columns=columns,
        rows=page.items,
        total=page.total,
        next_url=f"{base}?{urlencode([*given_without(given, 'cursor'), ('cursor', page.next_cursor)])}"
        if page.next_cursor
        else None,
        as_of=snapshot.as_of,
        query=query,
        sorts={name: f"{base}?{urlencode([*rest, ('sort', _next_sort(query.sort, name))])}" for name in columns},
        actions=tuple(row_actions(applicable, row) for row in page.items),
        raw=tuple(snapshot.value),
        filters=tuple((name, value) for name, value in given if name not in {"q", "cursor", "limit"}),
    )


def given_without(given: Sequence[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    return [one for one in given if one[0] != name]


def _next_sort(sort: Sequence[str], name: str) -> str:
    return f"-{name}" if tuple(sort) == (name,) else name


@routes.get("/all")
async def show_all(request: Request) -> Response:
    """List every view and every change."""
    nouns: dict[str, tuple[list[AnyView], list[AnyChange]]] = {}
    for view in views_of(request).values():
        nouns.setdefault(noun_of(view), ([], []))[0].append(view)
    for change in changes_of(request).values():
        nouns.setdefault(noun_of(change), ([], []))[1].append(change)
    return render(request, "all.html", {"nouns": nouns})


@routes.get("/views/{name}")
async def show_view(request: Request, parts: PartsOf, name: str) -> Response:
    view = views_of(request).get(name)
    if view is None:
        raise NotFoundError("There is no such view.", hint="See the list of all views.")
    fields = forms.fields_of(view.parameters)
    given = {key: request.query_params.getlist(key) for key in request.query_params}
    titles = {place.path: place.title for place in request.app.state.places}
    context = {
        "view": view,
        "heading": titles.get(request.url.path, view.summary.rstrip(".")),
        "fields": fields,
        "values": forms.shown(fields, given),
        "changes": [one for one in changes_of(request).values() if noun_of(one) == noun_of(view)],
        "off": None,
        "enable": None,
    }
    if not forms.are_complete(fields, given):
        return render(request, "view.html", {**context, "listing": None, "found": None, "as_of": None})
    if view.is_list:
        try:
            listing = await read_list(request, parts, view)
        except FeatureOffError as error:
            off = {"off": error, "enable": enable_action(changes_of(request), error)}
            return render(request, "view.html", {**context, **off, "listing": None, "found": None, "as_of": None})
        return render(request, "view.html", {**context, "listing": listing, "found": None, "as_of": listing.as_of})
    kept = [(key, value) for key, value in request.query_params.multi_items() if value != ""]
    wanted, _ = read_query(view, QueryParams(kept))
    snapshot = await parts.snapshots.get(view, wanted)
    found = as_data(snapshot.value)
    return render(request, "view.html", {**context, "listing": None, "found": found, "as_of": snapshot.as_of})


@routes.get("/changes/{name}")
async def show_change(request: Request, parts: PartsOf, name: str) -> Response:
    """Show the form, and the plan if the query fills it in."""
    change = _change(request, name)
    require_admin(request)
    fields = forms.fields_of(change.parameters)
    given = {key: request.query_params.getlist(key) for key in request.query_params}
    if (fields and not given) or not forms.are_complete(fields, given):
        return _form(request, change, given)
    return await _plan(request, parts, change, given, is_form=False)


@routes.post("/changes/{name}")
async def post_change(request: Request, parts: PartsOf, name: str) -> Response:
    """Show the plan of a change, or, when a person has confirmed it, start it."""
    change = _change(request, name)
    form = form_of(request)
    if field(form, "do") != "run":
        return await _plan(request, parts, change, form, is_form=True)
    try:
        wanted = _wanted(change, form, is_form=True)
        if change.asks and field(form, "agreed") != "yes":
            raise UsageError("The change was not confirmed.", hint="Tick the box below the plan.")
        asker = asker_of(request)
        key = field(form, "key")
        running = await parts.operations.begin(change, wanted, asker, key=f"{asker.name} page-{key}" if key else None)
    except OperationRunningError:
        raise
    except CitusClusterError as error:
        return await _plan(request, parts, change, form, is_form=True, error=error)
    await running.ended(longest_s(parts, change) if change.shows_once(wanted) else FINISHES_WITHIN_S)
    once = getattr(running.outcome, "once", None)
    if once:
        # They are shown to this user once, and kept nowhere, so there is no page to go to.
        return render(request, "once.html", {"operation": running.operation, "secrets": dict(once)})
    return RedirectResponse(f"/operations/{running.operation.id}", HTTPStatus.SEE_OTHER)


def _change(request: Request, name: str) -> AnyChange:
    change = changes_of(request).get(name)
    if change is None:
        raise NotFoundError("There is no such change.", hint="See the list of all changes.")
    return change


def _wanted(change: AnyChange, given: forms.Values, *, is_form: bool) -> Any:
    fields = forms.fields_of(change.parameters)
    return read_parameters(change.parameters, forms.read(fields, given, is_form=is_form))


async def _plan(
    request: Request,
    parts: Parts,
    change: AnyChange,
    given: forms.Values,
    *,
    is_form: bool,
    error: CitusClusterError | None = None,
) -> Response:
    try:
        wanted = _wanted(change, given, is_form=is_form)
        preview = await parts.operations.plan(change, wanted)
    except CitusClusterError as found:
        return _form(request, change, given, error=error or found)
    status = error.http_status if error else 200
    return _form(
        request,
        change,
        given,
        error=error if error and not preview.blocking else None,
        status=status,
        plan=preview.as_dict(),
        is_blocked=bool(preview.blocking),
        command=command_line(change, wanted),
    )


def _form(
    request: Request,
    change: AnyChange,
    given: forms.Values,
    *,
    error: CitusClusterError | None = None,
    status: int | None = None,
    **plan: Any,
) -> Response:
    fields = forms.fields_of(change.parameters)
    context = {
        "change": change,
        "fields": fields,
        "values": forms.shown(fields, given),
        "error": error,
        "key": secrets.token_urlsafe(16),
        "plan": None,
        "is_blocked": False,
        "command": f"citus-cluster {change.command}",
    }
    code = status if status is not None else (error.http_status if error else 200)
    return render(request, "change.html", {**context, **plan}, status=code)
