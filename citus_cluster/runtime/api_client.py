"""A client of the admin API: one request at a time, with a bearer token."""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

from citus_cluster.errors import CitusClusterError, UnreachableError, UsageError

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
_MAX_BYTES = 64 * 1024 * 1024


class ApiRefusedError(CitusClusterError):
    """The admin API refused the request."""

    code = "api-refused"


@dataclass(frozen=True)
class ApiAnswer:
    """The answer to a request; ``content`` is the parsed JSON, or the text of another type."""

    status: int
    location: str | None
    content: Any
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class ApiClient:
    """The address of an API, and the token for it."""

    url: str
    token: str = field(repr=False)
    timeout_s: float = 120

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        content: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> ApiAnswer:
        """Send a request. Raises UnreachableError, and ApiRefusedError for a status of 400 or more."""
        with self._answering(method, path, query, content, headers or {}) as answer:
            body = answer.read(_MAX_BYTES)
        found = ApiAnswer(answer.status, answer.getheader("Location"), _parse(body), body)
        if answer.status >= http.client.BAD_REQUEST:
            raise _refusal(found)
        return found

    def events(self, path: str, after: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Follow a stream of server-sent events: the name and the data of each. Raises like :meth:`call`."""
        headers = {"Accept": EVENT_STREAM, "Last-Event-ID": str(after)}
        with self._answering("GET", path, (), None, headers) as answer:
            if answer.status != http.client.OK:
                body = answer.read(_MAX_BYTES)
                raise _refusal(ApiAnswer(answer.status, None, _parse(body), body))
            name, data = "", ""
            for raw in answer:
                line = raw.decode(errors="replace").rstrip("\r\n")
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    data = line[6:]
                elif not line and data:
                    yield name, json.loads(data)
                    name, data = "", ""

    @contextmanager
    def _answering(
        self, method: str, path: str, query: Sequence[tuple[str, str]], content: object, headers: Mapping[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        target = _target(self.url)
        whole = f"{target.path.rstrip('/')}{path}"
        if query:
            whole += ("&" if "?" in whole else "?") + urlencode(query)
        if not whole.isascii() or any(character <= " " for character in whole):
            raise UsageError("The path has characters that a URL cannot have.", hint="Percent-encode them.")
        sent = {"Authorization": f"Bearer {self.token}", "Accept": JSON, "Connection": "close"} | dict(headers)
        body = None
        if content is not None:
            body = json.dumps(content).encode()
            sent["Content-Type"] = JSON
        connection = _connection(target, self.timeout_s)
        try:
            connection.request(method, whole, body=body, headers=sent)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"The admin API at {self.url} does not answer: {error or type(error).__name__}.",
                hint="Check that it runs (citus-cluster status), or name another address with --url.",
            ) from error
        finally:
            connection.close()


def _target(url: str) -> SplitResult:
    try:
        target = urlsplit(url)
        is_valid = target.scheme in {"http", "https"} and bool(target.hostname) and target.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise UsageError(f"{url} is not the URL of an API.", hint="For example --url http://127.0.0.1:8000")
    return target


def _connection(target: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    host = target.hostname or ""
    if target.scheme == "https":
        return http.client.HTTPSConnection(host, target.port, timeout=timeout_s, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, target.port, timeout=timeout_s)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def _refusal(answer: ApiAnswer) -> ApiRefusedError:
    found = answer.content if isinstance(answer.content, dict) else {}
    what = found.get("detail") or found.get("title") or http.client.responses.get(answer.status, "refused")
    details = [str(one) for one in found.get("details") or ()]
    if found.get("operation"):
        details.append(f"operation: {found['operation']}")
    return ApiRefusedError(f"{answer.status}: {what}", hint=found.get("hint"), details=details)
