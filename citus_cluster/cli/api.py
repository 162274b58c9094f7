"""The command ``api``: requests to the admin API of a cluster, for people and scripts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from citus_cluster.cli.options import DirectoryOption, TokenFileOption, UrlOption
from citus_cluster.entry import importing
from citus_cluster.errors import CitusClusterError, UsageError

if TYPE_CHECKING:
    from citus_cluster.runtime.api_client import ApiAnswer, ApiClient

_PREFIX = "/api/v1"
_PATIENCE_S = 60.0
"""How long an API that is followed may not answer, such as while it restarts."""
_PAUSE_S = 1.0
_ROOT_PATHS = ("/api/", "/health", "/metrics", "/openapi.json", "/docs")
Pairs = list[tuple[str, str]]
_LITERALS = {"true": True, "false": False, "null": None}


def api(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Path below /api/v1, such as nodes; or a whole path.", show_default=False),
    ],
    method: Annotated[
        str | None, typer.Option("-X", "--method", help="HTTP method.", show_default="POST with fields, else GET")
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "-f", "--field", help="NAME=VALUE of the body; true, false, null and numbers are such values in JSON."
        ),
    ] = None,
    query: Annotated[list[str] | None, typer.Option("-q", "--query", help="NAME=VALUE of the query.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="FILE", help="File with the body as JSON; - for standard input.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan of a change, and change nothing.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the operation that the request starts, to its end.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Read all pages of a list.")] = False,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
    directory: DirectoryOption = Path(),
) -> None:
    """Send a request to the admin API, and print its answer as JSON. Exit 1 if it or its operation fails."""
    with importing():
        from citus_cluster.console import screen
        from citus_cluster.operations.api_access import api_client

    client = api_client(directory.absolute(), url, token_file)
    whole = path if path.startswith(_ROOT_PATHS) else f"{_PREFIX}/{path.lstrip('/')}"
    wanted = _pairs(query, "--query") + ([("dry_run", "true")] if dry_run else [])
    content = _body(field, input_)
    verb = (method or ("POST" if content is not None or dry_run or wait else "GET")).upper()
    if not verb.isalpha():
        raise UsageError("--method is not an HTTP method.")
    if verb in {"POST", "PUT", "PATCH"} and content is None:
        content = {}
    if every:
        found: Any = _all_pages(client, whole, wanted)
    else:
        answer = client.call(verb, whole, query=wanted, content=content)
        found = follow(client, answer) if wait else answer.content
    if isinstance(found, str):
        typer.echo(found, nl=not found.endswith("\n"))
    else:
        screen.print_json(found)
    if wait:
        refuse_failed(found)


def _all_pages(client: ApiClient, path: str, query: Pairs) -> list[Any]:
    rows: list[Any] = []
    if not any(name == "limit" for name, _ in query):
        query = [*query, ("limit", "1000")]
    cursor = [pair for pair in query if pair[0] == "cursor"]
    query = [pair for pair in query if pair[0] != "cursor"]
    while True:
        page = client.call("GET", path, query=[*query, *cursor]).content
        if not isinstance(page, dict) or "items" not in page:
            raise UsageError("The answer is not a list with pages.", hint="Omit --all.")
        rows += page["items"]
        if not page.get("next_cursor"):
            return rows
        cursor = [("cursor", page["next_cursor"])]


def follow(client: ApiClient, answer: ApiAnswer) -> Any:
    """Show the events of an operation until its end, and return the operation. Raises UnreachableError."""
    from citus_cluster.console import screen
    from citus_cluster.errors import UnreachableError
    from citus_cluster.model.plan.events import Event, EventKind

    if answer.location is None or not isinstance(answer.content, dict):
        return answer.content
    after, content, silent_since = 0, answer.content, None
    with screen.Progress() as progress:
        while content.get("state") == "running":
            try:
                for name, data in client.events(f"{answer.location}/events", after):
                    if name == "end":
                        return data
                    after, silent_since = data["number"], None
                    progress.emit(Event(data["step"], EventKind(data["kind"]), data["message"], data["data"]))
                content = client.call("GET", answer.location).content
                silent_since = None
            except UnreachableError:
                # The API may be restarting; it knows the operation afterwards.
                if silent_since is None:
                    silent_since = time.monotonic()
                    screen.err.print("The admin API does not answer. Trying again.")
                elif time.monotonic() - silent_since > _PATIENCE_S:
                    raise
                time.sleep(_PAUSE_S)
    return content


def refuse_failed(found: Any) -> None:
    """Raise CitusClusterError if this is an operation that did not succeed."""
    if isinstance(found, dict) and found.get("state") not in {"done", None}:
        error = found.get("error") or {}
        raise CitusClusterError(
            f"Operation {found.get('id')} is {found.get('state')}: {error.get('message') or found.get('last_message')}",
            hint=error.get("hint"),
        )


def _pairs(given: list[str] | None, flag: str) -> Pairs:
    """Return the pairs in their order; a name may come several times, such as for a filter with several values."""
    found = []
    for one in given or ():
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise UsageError(f"{flag} has the form NAME=VALUE.")
        found.append((name, value))
    return found


def _body(given: list[str] | None, source: str | None) -> Any:
    if source is not None:
        if given:
            raise UsageError("--input and --field cannot be combined.", hint="Use one of the two.")
        try:
            return json.loads(sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UsageError(f"{source} is not JSON: {error}.") from error
    if not given:
        return None
    body: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise UsageError("--field has the form NAME=VALUE, or NAME[]=VALUE for each value of a list.")
        if name.endswith("[]"):
            body.setdefault(name[:-2], []).append(_value(value))
        else:
            body[name] = _value(value)
    return body


def _value(text: str) -> object:
    if text in _LITERALS:
        return _LITERALS[text]
    try:
        number = json.loads(text)
    except ValueError:
        return text
    return number if isinstance(number, (int, float)) else text
