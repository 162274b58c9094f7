"""The commands ``operations``: what the admin API runs and has run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from citus_cluster.cli.api import follow, refuse_failed
from citus_cluster.cli.options import DirectoryOption, DryRunOption, Format, FormatOption, TokenFileOption, UrlOption
from citus_cluster.entry import importing
from citus_cluster.model.listing import MAX_LIMIT
from citus_cluster.model.operation import OperationState

if TYPE_CHECKING:
    from citus_cluster.runtime.api_client import ApiAnswer, ApiClient

_PATH = "/api/v1/operations"
IdArgument = Annotated[int, typer.Argument(metavar="ID", help="Id of the operation.", min=1, show_default=False)]
WaitOption = Annotated[bool, typer.Option("--wait", help="Follow the operation to its end.")]


def list_operations(
    state: Annotated[OperationState | None, typer.Option("--state", help="Only operations in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="Operations to show.", min=1, max=MAX_LIMIT)] = 20,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """List the operations of the admin API, the newest first."""
    with importing():
        from citus_cluster.console import operations as shown
        from citus_cluster.console import screen

    query = [("limit", str(limit))] + ([("state", state.value)] if state else [])
    found = _client(directory, url, token_file).call("GET", _PATH, query=query).content
    screen.print_json(found) if format_ is Format.JSON else shown.print_list(found["items"], found["total"])


def show(
    id_: IdArgument,
    wait: WaitOption = False,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show an operation with its plan, its events, its result, and what differs since its start."""
    client = _client(directory, url, token_file)
    answer = client.call("GET", f"{_PATH}/{id_}")
    found = follow(client, replace(answer, location=f"{_PATH}/{id_}")) if wait else answer.content
    _print(client, found, format_)
    if wait:
        refuse_failed(found)


def cancel(
    id_: IdArgument,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Cancel a running operation. What it has done stays done."""
    client = _client(directory, url, token_file)
    found = _request(client, f"{_PATH}/{id_}/cancel", dry_run, format_).content
    _print(client, found, format_)


def resume(
    id_: IdArgument,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    directory: DirectoryOption = Path(),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Run an operation again that was interrupted, was cancelled, or failed. What is done is skipped."""
    client = _client(directory, url, token_file)
    answer = _request(client, f"{_PATH}/{id_}/resume", dry_run, format_)
    found = follow(client, answer) if wait else answer.content
    _print(client, found, format_)
    if wait:
        refuse_failed(found)


def _client(directory: Path, url: str | None, token_file: Path | None) -> ApiClient:
    with importing():
        from citus_cluster.operations.api_access import api_client

    return api_client(directory.absolute(), url, token_file)


def _request(client: ApiClient, path: str, dry_run: bool, format_: Format) -> ApiAnswer:
    """Request a change; with ``dry_run``, print its plan and exit."""
    from citus_cluster.cli.declared import show_plan

    if not dry_run:
        return client.call("POST", path, content={})
    raise show_plan(client.call("POST", path, content={}, query=[("dry_run", "true")]).content["plan"], format_)


def _print(client: ApiClient, found: Any, format_: Format) -> None:
    from citus_cluster.console import operations as shown
    from citus_cluster.console import screen

    if format_ is Format.JSON:
        screen.print_json(found)
    else:
        shown.print_operation(found, client.call("GET", f"{_PATH}/{found['id']}/events").content["items"])
