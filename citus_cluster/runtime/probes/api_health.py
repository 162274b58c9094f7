"""The admin API's own health check over its published port."""

import http.client
import json

from citus_cluster.runtime.docker.engine import HealthProbe


def probe_api(host: str, port: int, *, timeout_s: float) -> HealthProbe:
    """Call ``GET /health``; not ok, with its reason, while a worker is missing. Blocks."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/health", headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(65536)
    except (OSError, http.client.HTTPException) as error:
        return HealthProbe(False, f"no response from {host}:{port}: {error}")
    finally:
        connection.close()
    if answer.status == http.client.OK:
        return HealthProbe(True, "")
    try:
        reason = json.loads(body).get("reason") or f"status {answer.status}"
    except (ValueError, AttributeError):
        reason = f"status {answer.status}"
    return HealthProbe(False, str(reason))
