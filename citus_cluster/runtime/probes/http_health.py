"""The health request of a server that speaks HTTP, over its published port."""

import http.client
import json
from dataclasses import dataclass

from citus_cluster.runtime.docker.engine import HealthProbe


@dataclass(frozen=True)
class HttpHealth:
    """The answer to a health request: the server's own word for its ``status``, empty if it gave none."""

    ok: bool
    status: str
    reason: str | None


def probe_http(host: str, port: int, path: str, *, timeout_s: float) -> HealthProbe:
    """Call ``GET path``; not ok unless the status is 200, with the ``reason`` of a JSON object. Blocks."""
    found = read_health(host, port, path, timeout_s=timeout_s)
    return HealthProbe(True, "") if found.ok else HealthProbe(False, found.reason or "")


def read_health(host: str, port: int, path: str, *, timeout_s: float) -> HttpHealth:
    """Call ``GET path``, and read ``status`` and ``reason`` of a JSON object. Blocks."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(65536)
    except (OSError, http.client.HTTPException) as error:
        return HttpHealth(False, "", f"no response from {host}:{port}: {error}")
    finally:
        connection.close()
    try:
        found = json.loads(body)
        status, reason = str(found.get("status") or ""), found.get("reason")
    except (ValueError, AttributeError):
        status, reason = "", None
    if answer.status == http.client.OK:
        return HttpHealth(True, status, str(reason) if reason else None)
    return HttpHealth(False, status, str(reason or f"status {answer.status}"))
