"""Grafana's format of the dashboard in tools/grafana_panels.py; `make docs` writes it below config/monitoring/.

The format is that of Grafana's export for other Grafanas: a person who imports the file chooses the data source.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tools.grafana_panels import GREEN, OF, ROWS, Panel, Query

TITLE = "Citus cluster"
_UID = "citus-cluster"
_GRAFANA = "11.0.0"
"""The oldest Grafana that has everything that the panels use."""
_SCHEMA_VERSION = 39
"""Grafana's schema of dashboards in that version; newer versions of Grafana migrate it when they read it."""
_SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
_WIDTH = 24


def dashboard() -> dict[str, Any]:
    """Return the document that Grafana imports."""
    return {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "description": "The Prometheus that reads the admin API, and has the recording and alert rules.",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "__elements": {},
        "__requires": list(_requirements()),
        "uid": _UID,
        "title": TITLE,
        "description": "What an operator of a Citus cluster needs to see; docs/monitoring.md explains the alerts.",
        "tags": ["citus", "postgresql"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                _variable(
                    "instance", "Cluster", 'label_values(citus_cluster_build_info{job="citus-cluster"}, instance)'
                ),
                _variable("node", "Node", f"label_values(citus_cluster_node_active{{{OF}}}, node)", several=True),
            ]
        },
        "panels": list(_panels()),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def _requirements() -> Iterator[dict[str, str]]:
    yield {"type": "grafana", "id": "grafana", "name": "Grafana", "version": _GRAFANA}
    yield {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"}
    names = {"stat": "Stat", "state-timeline": "State timeline", "table": "Table", "timeseries": "Time series"}
    used = {panel.kind for row in ROWS for panel in row.panels}
    for kind in sorted(used):
        yield {"type": "panel", "id": kind, "name": names[kind], "version": ""}


def _variable(name: str, label: str, query: str, *, several: bool = False) -> dict[str, Any]:
    every = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "skipUrlSync": False,
        **(every if several else {"multi": False, "includeAll": False}),
    }


def _panels() -> Iterator[dict[str, Any]]:
    """Place the panels of each row from left to right, in lines of the highest panel."""
    top = 0
    for row in ROWS:
        yield {
            "type": "row",
            "id": row.number,
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": _WIDTH, "h": 1},
            "panels": [],
        }
        top += 1
        left = height = 0
        for panel in row.panels:
            if left + panel.width > _WIDTH:
                top, left, height = top + height, 0, 0
            yield _panel(panel, left, top)
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel, left: int, top: int) -> dict[str, Any]:
    options, custom = _options(panel)
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel), "mappings": _mappings(panel)}
    defaults["color"] = {"mode": "thresholds" if panel.kind in {"stat", "state-timeline"} else "palette-classic"}
    if panel.least is not None:
        defaults["min"] = panel.least
    if panel.most is not None:
        defaults["max"] = panel.most
    return {
        "type": panel.kind,
        "id": panel.number,
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height},
        "targets": [_target(panel, place, query) for place, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": {**defaults, "custom": custom}, "overrides": []},
        "options": options,
        **({"transformations": [_ALERTS]} if panel.kind == "table" else {}),
    }


_ALERTS: Mapping[str, Any] = {
    "id": "organize",
    "options": {
        "excludeByName": dict.fromkeys(("__name__", "alertstate", "instance", "job", "Time", "Value", "role"), True),
        "indexByName": {"severity": 0, "alertname": 1, "node": 2, "service": 3, "part": 4, "state": 5},
        "renameByName": {},
    },
}


def _target(panel: Panel, place: int, query: Query) -> dict[str, Any]:
    is_table = panel.kind == "table"
    return {
        "refId": chr(ord("A") + place),
        "datasource": _SOURCE,
        "expr": query.expression,
        "legendFormat": query.legend or "__auto",
        "editorMode": "code",
        "format": "table" if is_table else "time_series",
        "instant": panel.kind in {"stat", "table"},
        "range": panel.kind not in {"stat", "table"},
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    first = "text" if panel.kind == "stat" and not panel.steps else GREEN
    steps = [{"value": None, "color": first}, *({"value": value, "color": color} for value, color in panel.steps)]
    return {"mode": "absolute", "steps": steps}


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.words:
        return []
    words = {value: {"text": word, "color": color, "index": at} for at, (value, word, color) in enumerate(panel.words)}
    return [{"type": "value", "options": words}]


def _options(panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of a kind of panel, and those of its fields."""
    custom: dict[str, Any]
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    tooltip = {"mode": "multi", "sort": "desc"}
    match panel.kind:
        case "stat":
            reduce: dict[str, Any] = {"values": False, "calcs": ["lastNotNull"], "fields": ""}
            several = any(query.legend for query in panel.queries)
            return {
                "reduceOptions": reduce,
                "orientation": "auto",
                "textMode": "value_and_name" if several else "value",
                "colorMode": "value",
                "graphMode": "none",
                "justifyMode": "auto",
                "wideLayout": True,
                "showPercentChange": False,
                "percentChangeColorMode": "standard",
            }, {}
        case "table":
            return {"frameIndex": 0, "showHeader": True, "cellHeight": "sm"}, {"align": "auto", "inspect": False}
        case "state-timeline":
            custom = {"lineWidth": 0, "fillOpacity": 70}
            tooltip = {"mode": "single", "sort": "none"}
            return {
                "mergeValues": True,
                "showValue": "auto",
                "alignValue": "left",
                "rowHeight": 0.9,
                "legend": legend,
                "tooltip": tooltip,
            }, custom
    line: dict[str, str] = {"mode": "dashed" if panel.steps else "off"}
    stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 20 if panel.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": stacking,
        "thresholdsStyle": line,
    }
    return {"legend": legend, "tooltip": tooltip}, custom
