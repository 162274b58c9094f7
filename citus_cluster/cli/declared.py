"""Commands of declared changes and views: their options come from the declared parameters."""

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from citus_cluster.cli.acting import cluster_of, journal_of, locate
from citus_cluster.cli.options import DirectoryOption, DryRunOption, DsnOption, Format, FormatOption
from citus_cluster.console import declared as shown
from citus_cluster.console import screen
from citus_cluster.errors import ConsentNeededError, ExitStatus, UsageError
from citus_cluster.model.listing import DEFAULT_LIMIT, MAX_LIMIT, Listing, ListQuery
from citus_cluster.model.parameters import read_parameters
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.model.plan.preview import Preview, Severity
from citus_cluster.operations.change import AnyChange, perform
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.view import AnyView
from citus_cluster.runtime.store.secrets import read_password_file

_YES = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def command_of_change(change: AnyChange) -> Callable[..., None]:
    """Return the function of a change's command, for typer."""

    def command(context: typer.Context, **given: Any) -> None:
        directory, dsn, format_ = given.pop("directory"), given.pop("dsn"), given.pop("format_")
        dry_run, yes = given.pop("dry_run"), given.pop("yes", True)
        wanted = _read(change.parameters, given)
        cluster = _cluster(directory, dsn)
        preview: Preview | None = None
        if dry_run:
            preview = asyncio.run(change.plan(cluster, wanted))
            raise show_plan(preview.as_dict(), format_)
        if not yes:
            preview = asyncio.run(change.plan(cluster, wanted))
            preview.refuse()
            _confirm(preview)
        journal = journal_of(context, cluster.root)
        with screen.Progress() as progress:
            doing = perform(
                change,
                cluster,
                journal,
                wanted,
                progress.emit,
                preview=preview,
                show=lambda plan: _warn(change, plan, progress),
            )
            result = asyncio.run(doing)
        if format_ is Format.JSON:
            screen.print_json(result.as_dict())
        else:
            shown.print_result(result)

    extra = {"dry_run": (DryRunOption, False)} | ({"yes": (_YES, False)} if change.asks else {})
    return _finish(command, change.summary, change.parameters, extra)


def command_of_view(view: AnyView) -> Callable[..., None]:
    """Return the function of a view's command, for typer."""

    def command(**given: Any) -> None:
        directory, dsn, format_ = given.pop("directory"), given.pop("dsn"), given.pop("format_")
        query = _query(given) if view.is_list else None
        wanted = _read(view.parameters, given)
        cluster = _cluster(directory, dsn)
        found: Any = asyncio.run(view.read(cluster, wanted))
        if query is None:
            screen.print_json(found.as_dict()) if format_ is Format.JSON else shown.print_result(found)
            return
        assert view.key is not None  # noqa: S101 - it is a list
        page = Listing(found, view.row, view.key).page(query)
        if format_ is Format.JSON:
            screen.print_json({"items": list(page.items), "next_cursor": page.next_cursor, "total": page.total})
        else:
            shown.print_page(view, page, query.fields)

    listing = {
        "limit": (Annotated[int, typer.Option("--limit", help="Rows to show.", min=1, max=MAX_LIMIT)], DEFAULT_LIMIT),
        "cursor": (Annotated[str | None, typer.Option("--cursor", help="next_cursor of the previous page.")], None),
        "sort": (Annotated[str, typer.Option("--sort", help="Fields to sort by; -FIELD descends.")], ""),
        "fields": (Annotated[str, typer.Option("--fields", help="Fields to show, separated by commas.")], ""),
        "q": (Annotated[str | None, typer.Option("--search", help="Text that a row must contain.")], None),
        "filter": (
            Annotated[
                list[str] | None,
                typer.Option(
                    "--filter", help="FIELD=VALUE, FIELD.min=VALUE or FIELD.max=VALUE; repeat the option for more."
                ),
            ],
            None,
        ),
    }
    return _finish(command, view.summary, view.parameters, listing if view.is_list else {})


def _query(given: dict[str, Any]) -> ListQuery:
    filters: dict[str, tuple[str, ...]] = {}
    for one in given.pop("filter") or ():
        name, equals, value = one.partition("=")
        if not equals:
            raise UsageError("--filter has the form FIELD=VALUE.", hint="For example --filter kind=distributed")
        filters[name] = (*filters.get(name, ()), value)
    return ListQuery(
        limit=given.pop("limit"),
        cursor=given.pop("cursor"),
        sort=_words(given.pop("sort")),
        fields=_words(given.pop("fields")),
        q=given.pop("q"),
        filters=filters,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _cluster(directory: Path, dsn: str | None) -> Cluster:
    return cluster_of(*locate(directory, dsn))


def show_plan(plan: Mapping[str, Any], format_: Format) -> typer.Exit:
    """Print a plan. Returns what ends the command, with the exit status of a dry run."""
    screen.print_json(plan) if format_ is Format.JSON else shown.print_plan(plan)
    if any(one["severity"] == Severity.BLOCKS for one in plan["findings"]):
        return typer.Exit(ExitStatus.FAILED)
    return typer.Exit(ExitStatus.WOULD_CHANGE if plan["steps"] else ExitStatus.DONE)


def _warn(change: AnyChange, preview: Preview, progress: screen.Progress) -> None:
    for one in preview.warnings if preview.steps else ():
        progress.emit(Event(change.name, EventKind.WARNING, f"{one.message} {one.fix or ''}".rstrip()))


def _confirm(preview: Preview) -> None:
    if not preview.steps:
        return
    if screen.interactive():
        shown.print_plan(preview.as_dict())
        if screen.confirm("Go on?"):
            return
    # On a terminal, the plan was shown with the question.
    plan = () if screen.interactive() else (*preview.steps, *(one.message for one in preview.warnings))
    raise ConsentNeededError(
        "The change was not confirmed; nothing was changed.", hint="To agree, add --yes.", details=plan
    )


def _finish(
    command: Callable[..., None], summary: str, shape: type, extra: dict[str, tuple[Any, Any]]
) -> Callable[..., None]:
    """Give the function the signature from which typer makes the parser."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(name, kind, annotation=annotation, default=default)
        for name, annotation, default in _declared(shape)
    ]
    common = {"dsn": (DsnOption, None), "directory": (DirectoryOption, Path()), "format_": (FormatOption, Format.TEXT)}
    for name, (annotation, default) in (extra | common).items():
        parameters.append(inspect.Parameter(name, kind, annotation=annotation, default=default))
    if "context" in inspect.signature(command).parameters:
        parameters.insert(0, inspect.Parameter("context", kind, annotation=typer.Context))
    command.__doc__ = summary
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _declared(shape: type) -> Iterator[tuple[str, Any, Any]]:
    hints = get_type_hints(shape, include_extras=True)
    for one in fields(shape):
        bare, description = _bare(hints[one.name])
        default = _default(one)
        if default is inspect.Parameter.empty:
            made: Any = typer.Argument(metavar=one.name.upper(), help=description, show_default=False)
        elif bare is bool and default in (True, None):
            made = typer.Option(f"--{_flag(one.name)}/--no-{_flag(one.name)}", help=description)
        elif bare is SecretStr:
            bare, made = Path, typer.Option(f"--{_flag(one.name)}-file", help=f"File that holds it. {description}")
        else:
            made = typer.Option(f"--{_flag(one.name)}", help=description)
        if get_origin(bare) is tuple:
            bare = list[get_args(bare)[0]]  # type: ignore[misc]
            default = default if default is inspect.Parameter.empty else list(default or ())
        optional = default is None
        yield one.name, Annotated[bare | None if optional else bare, made], default


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _default(one: "Field[Any]") -> Any:
    if one.default is not MISSING:
        return one.default
    if one.default_factory is not MISSING:
        return one.default_factory()
    return inspect.Parameter.empty


def _bare(hint: Any) -> tuple[Any, str]:
    """Return the type of a field without None and constraints, and its description."""
    description = ""
    if get_origin(hint) is Annotated:
        base, *more = get_args(hint)
        description = next((one.description for one in more if isinstance(one, FieldInfo) and one.description), "")
        return _bare(base)[0], description
    if parts := [part for part in get_args(hint) if part is not NoneType] if NoneType in get_args(hint) else []:
        inner, found = _bare(parts[0])
        return inner, found
    return hint, description


def _read(shape: type, given: dict[str, Any]) -> Any:
    hints = get_type_hints(shape, include_extras=True)
    values = {}
    for name, value in given.items():
        if _bare(hints[name])[0] is SecretStr and value is not None:
            value = read_password_file(value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return read_parameters(shape, values)
