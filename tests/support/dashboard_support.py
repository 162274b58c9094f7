"""The queries of the dashboard for Grafana, as Grafana sends them to Prometheus."""

import json
from collections.abc import Iterator
from typing import Any

from setup_support import ROOT

FILE = ROOT / "config/monitoring/grafana-dashboard.json"


def panels() -> list[dict[str, Any]]:
    """Return the panels, without the rows that divide them."""
    return [panel for panel in json.loads(FILE.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]


def queries(instance: str) -> Iterator[tuple[str, str, str]]:
    """Yield the title of the panel, the expression for one admin API and all its nodes, and the legend."""
    variables = {"$instance": instance, "$node": ".*", "$__rate_interval": "1m"}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in variables.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression, target["legendFormat"]
