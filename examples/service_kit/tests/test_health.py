"""What a service says of itself."""

import json
from typing import Any

import pytest
from service_kit.health import answer

OK: dict[str, Any] = {"status": "ok"}
AWAY: dict[str, Any] = {"status": "down", "detail": "does not answer"}


@pytest.mark.parametrize(
    ("parts", "http_status", "status", "reason"),
    [
        ({"primary": OK, "cache": {"status": "off"}}, 200, "ok", None),
        ({"primary": OK, "cache": AWAY}, 200, "degraded", "cache: does not answer"),
        ({"primary": AWAY, "cache": OK}, 503, "down", "primary: does not answer"),
        ({"primary": {"status": "degraded"}, "cache": OK}, 200, "degraded", "primary: degraded"),
    ],
)
def test_it_is_down_without_what_it_needs(parts: Any, http_status: int, status: str, reason: str | None) -> None:
    found = answer(parts, ("primary",))
    assert found.status_code == http_status
    assert json.loads(bytes(found.body)) == {"status": status, "reason": reason, "parts": parts}
    assert ("Retry-After" in found.headers) == (http_status == 503)
