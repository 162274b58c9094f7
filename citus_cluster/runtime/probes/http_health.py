"""The health request of a server that speaks HTTP, over its published port."""

import http.client
import json

from citus_cluster.runtime.docker.engine import HealthProbe


def probe_http(host: str, port: int, path: str, *, timeout_s: float) -> HealthProbe:
    """Call ``GET path``; not ok unless the status is 200, with the ``reason`` of a JSON object. Blocks."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
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
