"""Checks of lesson 1, capacity."""

import json
import urllib.request

from lessons.check import Lab, Seen, check


@check("E1-02", expected="status ok, Content-Type application/json, right Content-Length")
def server_answers(lab: Lab) -> Seen:
    """server.py answers with the status and the time as JSON."""
    with lab.server("server.py") as server, urllib.request.urlopen(server.url, timeout=10) as answer:
        body = answer.read()
        document = json.loads(body)
        kind, length = answer.headers["Content-Type"], answer.headers["Content-Length"]
    passed = document["status"] == "ok" and document["timestamp"] > 0 and kind == "application/json"
    return Seen(
        passed and length == str(len(body)), f"status {document['status']}, {kind}, {length} of {len(body)} bytes"
    )
