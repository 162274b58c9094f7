"""What the dashboard for Grafana shows: rows of panels, with their queries. tools/grafana_dashboard.py renders them.

The number of a panel is part of its address in Grafana, so it never changes, and a new panel gets a new one.
"""

from dataclasses import dataclass
from typing import Any

GREEN, YELLOW, RED = "green", "orange", "red"

OF = 'job="citus-cluster", instance="$instance"'
_ON_NODES = f'{OF}, node=~"$node"'


@dataclass(frozen=True)
class Query:
    """An expression of PromQL, and the name of each series."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel; ``unit`` is one of Grafana's unit ids, and ``steps`` are the values where a colour begins.

    ``words`` replace values. ``width`` and ``height`` are cells of Grafana's grid, which has 24 columns.
    """

    number: int
    title: str
    text: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 7
    steps: tuple[tuple[float, str], ...] = ()
    words: tuple[tuple[str, str, str], ...] = ()
    least: float | None = None
    most: float | None = None
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """A row of panels, with a title."""

    number: int
    title: str
    panels: tuple[Panel, ...]


_UP = (("0", "down", RED), ("1", "up", GREEN))
_BAD_ABOVE_0 = ((1.0, RED),)
_NEARLY_FULL = ((0.7, YELLOW), (0.85, RED))


def _graph(number: int, title: str, text: str, expression: str, legend: str, **more: Any) -> Panel:
    return Panel(number, title, text, (Query(expression, legend),), **more)


def _stat(number: int, title: str, text: str, expression: str, **more: Any) -> Panel:
    return Panel(number, title, text, (Query(expression),), kind="stat", width=4, height=4, **more)


ROWS = (
    Row(
        1,
        "Health",
        (
            _stat(
                2,
                "Coordinator",
                "Whether the coordinator answers the admin API. While it does not, the other figures are old.",
                f"citus_cluster_coordinator_up{{{OF}}}",
                words=_UP,
            ),
            _stat(
                3,
                "Silent nodes",
                "Active nodes that do not serve queries.",
                f"count(citus_cluster_node_up{{{OF}}} == 0) or on() vector(0)",
                steps=_BAD_ABOVE_0,
            ),
            _stat(
                4,
                "Workers not registered",
                "Workers of cluster.yaml that the coordinator does not know yet.",
                f'citus_cluster_wanted_workers{{{OF}, state="pending"}}',
                steps=_BAD_ABOVE_0,
            ),
            _stat(
                5,
                "Nodes without current metadata",
                "Nodes that have yet to receive Citus' metadata. Schema changes are refused meanwhile.",
                f"count(citus_cluster_node_metadata_synced{{{OF}}} == 0) or on() vector(0)",
                steps=_BAD_ABOVE_0,
            ),
            _stat(
                6,
                "Services that are down",
                "Services beside Citus that do not serve.",
                f"count(citus_cluster_companion_up{{{OF}}} == 0) or on() vector(0)",
                steps=_BAD_ABOVE_0,
            ),
            _stat(
                7,
                "Age of the figures",
                "Age of the oldest part. Figures that cannot be read keep their last value.",
                f"max(citus_cluster_sample_age_seconds{{{OF}}})",
                unit="s",
                steps=((120.0, YELLOW), (300.0, RED)),
            ),
            Panel(
                8,
                "Alerts",
                "Alerts that are firing. The annotation runbook of each rule names the command to run first.",
                (Query('ALERTS{alertname=~"Citus.+", alertstate="firing"}'),),
                kind="table",
                width=12,
            ),
            _graph(
                9,
                "Nodes",
                "Whether each active node serves queries.",
                f"citus_cluster_node_up{{{_ON_NODES}}}",
                "{{node}}",
                kind="state-timeline",
                width=12,
                words=_UP,
            ),
        ),
    ),
    Row(
        10,
        "Nodes",
        (
            _graph(
                11,
                "Connections in use",
                "Share of max_connections that is in use. New clients are refused at 100 %.",
                f"citus_cluster:node_connections:used_ratio{{{_ON_NODES}}}",
                "{{node}}",
                unit="percentunit",
                least=0,
                most=1,
                steps=_NEARLY_FULL,
            ),
            _graph(
                12,
                "Connections of clients in use",
                "Share of citus.max_client_connections that is in use. Nothing is shown for a node without this limit.",
                f"citus_cluster:node_client_connections:used_ratio{{{_ON_NODES}}}",
                "{{node}}",
                unit="percentunit",
                least=0,
                most=1,
                steps=_NEARLY_FULL,
            ),
            Panel(
                13,
                "Connections by kind",
                "External connections are those of clients, internal ones those of Citus between nodes.",
                (
                    Query(f"citus_cluster_node_connections{{{_ON_NODES}}}", "{{node}} {{kind}}"),
                    Query(f"citus_cluster_node_connections_limit{{{_ON_NODES}}}", "{{node}} limit"),
                ),
                least=0,
            ),
            _graph(
                14,
                "Metadata",
                "Whether each node has the current metadata.",
                f"citus_cluster_node_metadata_synced{{{_ON_NODES}}}",
                "{{node}}",
                kind="state-timeline",
                words=(("0", "not synced", RED), ("1", "synced", GREEN)),
            ),
            _graph(
                15,
                "Disk in use",
                "Share of the disk below the data of each node, and below the admin API.",
                f"citus_cluster:disk:used_ratio{{{OF}}}",
                "{{node}}",
                unit="percentunit",
                least=0,
                most=1,
                steps=_NEARLY_FULL,
            ),
            _graph(
                16,
                "Free disk space",
                "Free space of these disks, without what is reserved for root.",
                f"citus_cluster_disk_available_bytes{{{OF}}}",
                "{{node}}",
                unit="bytes",
                least=0,
            ),
        ),
    ),
    Row(
        20,
        "Shards",
        (
            _graph(
                21,
                "Size of shards",
                "Size of the shards of distributed tables on each node, with their indexes.",
                f"citus_cluster_node_shard_bytes{{{_ON_NODES}}}",
                "{{node}}",
                unit="bytes",
                least=0,
                stacked=True,
            ),
            _graph(
                22,
                "Number of shards",
                "Shards of distributed tables on each node.",
                f"citus_cluster_node_shards{{{_ON_NODES}}}",
                "{{node}}",
                least=0,
                stacked=True,
            ),
            _graph(
                23,
                "Skew",
                "Size of the fullest node, compared with the average of the nodes that may hold shards: 1 is even.",
                f"citus_cluster:node_shard_bytes:skew_ratio{{{OF}}}",
                "skew",
                least=1,
                steps=((1.25, YELLOW), (1.5, RED)),
                width=4,
            ),
            _graph(
                24,
                "Tables",
                "Tables that Citus knows, by kind.",
                f"citus_cluster_tables{{{OF}}}",
                "{{kind}}",
                kind="stat",
                width=4,
            ),
        ),
    ),
    Row(
        30,
        "Rebalance",
        (
            _stat(
                31,
                "Rebalance",
                "Whether a rebalance is scheduled or running.",
                f"citus_cluster_rebalance_active{{{OF}}}",
                words=(("0", "none", "text"), ("1", "running", "blue")),
            ),
            _stat(
                32,
                "Copied",
                "Share of the bytes of the latest rebalance that was copied.",
                f'citus_cluster_rebalance_bytes{{{OF}, state="done"}} '
                f'/ ignoring(state) (citus_cluster_rebalance_bytes{{{OF}, state="total"}} > 0)',
                unit="percentunit",
            ),
            _stat(
                33,
                "Time left",
                "Estimated time until the running rebalance ends.",
                f"citus_cluster_rebalance_remaining_seconds{{{OF}}}",
                unit="s",
            ),
            _stat(
                34,
                "Moves that fail",
                "Moves that failed, or that Citus retries.",
                f"citus_cluster_rebalance_troubled_tasks{{{OF}}}",
                steps=_BAD_ABOVE_0,
            ),
            _stat(
                35,
                "Retries",
                "Retries of these moves.",
                f"citus_cluster_rebalance_task_retries{{{OF}}}",
                steps=_BAD_ABOVE_0,
            ),
            _stat(
                36,
                "Result",
                "Whether the latest rebalance failed.",
                f"citus_cluster_rebalance_failed{{{OF}}}",
                words=(("0", "not failed", GREEN), ("1", "failed", RED)),
            ),
            _graph(
                37,
                "Shards of the rebalance",
                "Shards that the latest rebalance moves, with colocated ones, and those that it has moved.",
                f"citus_cluster_rebalance_shards{{{OF}}}",
                "{{state}}",
                least=0,
            ),
            _graph(
                38,
                "Bytes of the rebalance",
                "Size of these shards, and what was copied of it.",
                f"citus_cluster_rebalance_bytes{{{OF}}}",
                "{{state}}",
                unit="bytes",
                least=0,
            ),
            _graph(
                39,
                "Tasks of the rebalance",
                "Tasks of the latest rebalance, by state.",
                f"citus_cluster_rebalance_tasks{{{OF}}}",
                "{{state}}",
                least=0,
                stacked=True,
            ),
        ),
    ),
    Row(
        40,
        "What is left over",
        (
            _graph(
                41,
                "Clean-up",
                "Objects that Citus has yet to remove after moves and splits.",
                f"citus_cluster_cleanup_records{{{OF}}}",
                "objects",
                least=0,
                width=6,
            ),
            _graph(
                42,
                "Oldest prepared transaction",
                "It keeps its locks, and vacuum cannot remove newer dead rows.",
                f"citus_cluster_node_oldest_prepared_transaction_age_seconds{{{_ON_NODES}}}",
                "{{node}}",
                unit="s",
                least=0,
                steps=((600.0, RED),),
                width=6,
            ),
            _graph(
                43,
                "Prepared transactions",
                "Prepared transactions of each node; a busy cluster always has some.",
                f"citus_cluster_node_prepared_transactions{{{_ON_NODES}}}",
                "{{node}}",
                least=0,
                width=6,
            ),
            _graph(
                44,
                "Replication slots",
                "Replication slots by state. A lost slot ends nothing by itself: a move that uses it waits for hours.",
                f"citus_cluster_node_replication_slots{{{_ON_NODES}}} > 0",
                "{{node}} {{state}}",
                least=0,
                width=6,
            ),
            _graph(
                45,
                "WAL that slots keep",
                "The most WAL that a replication slot of each node keeps back.",
                f"citus_cluster_node_replication_slot_lag_bytes{{{_ON_NODES}}}",
                "{{node}}",
                unit="bytes",
                least=0,
                width=12,
            ),
        ),
    ),
    Row(
        50,
        "Services beside Citus",
        (
            _graph(
                51,
                "Services",
                "Whether each service serves, even if only in part.",
                f"citus_cluster_companion_up{{{OF}}}",
                "{{service}}",
                kind="state-timeline",
                words=_UP,
            ),
            _graph(
                52,
                "Lag of the replica",
                "WAL that the replica has not replayed yet.",
                f"citus_cluster_companion_replication_lag_bytes{{{OF}}}",
                "{{service}}",
                unit="bytes",
                least=0,
            ),
            _graph(
                53,
                "Lag of the replica in time",
                "How far the replica is behind its primary.",
                f"citus_cluster_companion_replication_lag_seconds{{{OF}}}",
                "{{service}}",
                unit="s",
                least=0,
            ),
        ),
    ),
    Row(
        60,
        "Tenants",
        (
            Panel(
                61,
                "Processor time of tenants",
                "Share of one processor that the busiest tenants used, if citus.stat_tenants_track is all.",
                (
                    Query(
                        f"topk(10, citus_cluster_tenant_cpu_seconds{{{OF}}} "
                        f"/ on(instance) group_left() citus_cluster_tenant_period_seconds{{{OF}}})",
                        "{{tenant}} ({{colocation_id}})",
                    ),
                ),
                unit="percentunit",
                least=0,
                width=12,
            ),
            Panel(
                62,
                "Queries of tenants",
                "Queries a second of the busiest tenants; those that only read are shown with r.",
                (
                    Query(
                        f"topk(10, citus_cluster_tenant_queries{{{OF}}} "
                        f"/ on(instance) group_left() citus_cluster_tenant_period_seconds{{{OF}}})",
                        "{{tenant}} ({{colocation_id}})",
                    ),
                    Query(
                        f"topk(10, citus_cluster_tenant_reads{{{OF}}} "
                        f"/ on(instance) group_left() citus_cluster_tenant_period_seconds{{{OF}}})",
                        "{{tenant}} ({{colocation_id}}) r",
                    ),
                ),
                unit="reqps",
                least=0,
                width=12,
            ),
        ),
    ),
    Row(
        70,
        "Admin API",
        (
            _graph(
                71,
                "Requests",
                "Requests a second, by status.",
                f"sum by (status) (citus_cluster:http_requests:rate5m{{{OF}}})",
                "{{status}}",
                unit="reqps",
                least=0,
                stacked=True,
            ),
            Panel(
                72,
                "Errors",
                "Share of the requests that failed in the admin API or in the cluster (status 5xx).",
                (
                    Query(
                        f'(sum(citus_cluster:http_requests:rate5m{{{OF}, status=~"5.."}}) or on() vector(0)) '
                        f"/ (sum(citus_cluster:http_requests:rate5m{{{OF}}}) > 0)",
                        "errors",
                    ),
                ),
                unit="percentunit",
                least=0,
            ),
            Panel(
                73,
                "Duration, 99th percentile",
                "The slowest routes: 99 % of their requests take no longer.",
                (
                    Query(
                        f"topk(10, citus_cluster:http_request_duration_seconds:p99_5m{{{OF}}})",
                        "{{route}}",
                    ),
                ),
                unit="s",
                least=0,
            ),
            _graph(
                74,
                "Requests in flight",
                "Requests that the admin API is handling now.",
                f"citus_cluster_http_requests_in_flight{{{OF}}}",
                "requests",
                least=0,
                width=6,
            ),
            _graph(
                75,
                "Time to read the figures",
                "How long the last reading of all figures took; they are read every 10 s while somebody asks.",
                f"citus_cluster_sample_duration_seconds{{{OF}}}",
                "duration",
                unit="s",
                least=0,
                width=6,
            ),
            _graph(
                76,
                "Figures that could not be read",
                "Failed attempts to read the figures, by part.",
                f"increase(citus_cluster_sample_failures_total{{{OF}}}[$__rate_interval]) > 0",
                "{{part}}",
                least=0,
                width=6,
            ),
            _graph(
                77,
                "Memory of the admin API",
                "Resident memory of its process.",
                f"process_resident_memory_bytes{{{OF}}}",
                "memory",
                unit="bytes",
                least=0,
                width=6,
            ),
        ),
    ),
)
