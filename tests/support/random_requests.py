"""Random requests that the OpenAPI document allows, and many that it does not: none is answered with a defect."""

from collections.abc import Iterator
from typing import Any, cast

import hypothesis
import schemathesis
from api_support import Api
from hypothesis import HealthCheck, Phase

from admin_api.problems import MEDIA_TYPE

# Every parameter of a filter is a parameter of its own; a few at a time find what many find.
_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}


def operations_of(api: Api) -> Iterator[Any]:
    document = api.client.get("/openapi.json", headers=api.read).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = f"http://127.0.0.1:{api.port}"
    for found in schema.get_all_operations():
        operation = cast("Any", found).ok()
        # The answer of /health with 503 is no problem, but the state of the cluster.
        if not operation.path.startswith("/health"):
            yield operation


def check(api: Api, operation: Any, examples: int, **query: str) -> set[int]:
    """Send random requests to one operation, and return the statuses of the answers."""
    seen = set()

    @hypothesis.settings(max_examples=examples, **_SETTINGS)
    @hypothesis.given(case=operation.as_strategy())
    def send(case: Any) -> None:
        if query:
            case.query = (case.query or {}) | query
        if operation.path.endswith("/events"):
            case.headers.pop("Accept", None)
        response = case.call(headers=api.admin, timeout=60)
        what = f"{case.as_curl_command()}\n{response.status_code} {response.text[:2000]}"
        # A worker that does not answer is 502.
        assert response.status_code not in {500, 501}, what
        if response.status_code >= 400:
            assert response.headers["content-type"][0] == MEDIA_TYPE, what
            assert response.json()["status"] == response.status_code
        seen.add(response.status_code)

    send()
    return seen
