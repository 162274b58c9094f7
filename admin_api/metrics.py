"""What GET /metrics shows, in the form of Prometheus: the figures of the sampler, and the API's own.

Names follow https://prometheus.io/docs/practices/naming/. A value that is unknown has no time series.
"""

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from admin_api.http_metrics import HttpFigures
from admin_api.reconciler import Reconciler
from admin_api.sampler import Part, Sample
from citus_cluster import __version__
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.figures import NodeFigures, busiest_tenants
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import JobState
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.disks import Disk

_OPENMETRICS = "application/openmetrics-text"
_CONTENT_TYPE_OPENMETRICS = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"
PREFIX = "citus_cluster_"


KEPT_S = 1.0
"""How long a text is sent again while the sample is the same; the figures of requests and the ages change meanwhile."""


class Metrics:
    """The registry of one app."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[float, Sample, bytes]] = {}
        self._registry = CollectorRegistry()
        self.http = HttpFigures(self._registry)
        self._registry.register(_BuildInfo())
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self, sample: Sample, families: Callable[[], Iterable[Metric]], accept: str) -> tuple[bytes, str]:
        """Return the text of a sample's families and of the app's own, and its media type, as the client accepts it."""
        media_type = _CONTENT_TYPE_OPENMETRICS if _OPENMETRICS in accept else CONTENT_TYPE_PLAIN_0_0_4
        now = asyncio.get_running_loop().time()
        kept = self._texts.get(media_type)
        if kept is None or kept[1] is not sample or now >= kept[0] + KEPT_S:
            whole = CollectorRegistry()
            whole.register(_Ready([*families(), *self._registry.collect()]))
            is_open = media_type == _CONTENT_TYPE_OPENMETRICS
            text = openmetrics.generate_latest(whole) if is_open else generate_latest(whole)  # type: ignore[no-untyped-call]
            kept = self._texts[media_type] = now, sample, text
        return kept[2], media_type


class _Ready:
    """Families that exist already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


class _BuildInfo:
    def collect(self) -> Iterator[Metric]:
        labels = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily(f"{PREFIX}build", "The version of citus-cluster and of Python.", value=labels)


def families(sample: Sample, reconciler: Reconciler, cluster: ApiConfig | None, own_disk: Disk) -> Iterator[Metric]:
    """Return the metrics of the cluster."""
    yield from _about_the_sample(sample)
    if cluster is not None:
        yield from _workers(reconciler, cluster)
    yield from _nodes(sample)
    yield from _shards(sample)
    yield from _disks(sample, own_disk)
    yield from _left_over(sample)
    yield from _rebalance(sample)
    yield from _tenants(sample)
    yield from _companions(sample.companions)


def _gauge(name: str, text: str, labels: tuple[str, ...] = (), rows: Iterable[tuple[Any, ...]] = ()) -> Metric:
    """Return a gauge; each row has the values of the labels, and then the value, None if it is unknown."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for *values, value in rows:
        if value is not None:
            family.add_metric([str(one) for one in values], float(value))
    return family


def _about_the_sample(sample: Sample) -> Iterator[Metric]:
    now = asyncio.get_running_loop().time()
    yield _gauge(
        "coordinator_up",
        "Whether the coordinator answered the last query of the sampler.",
        rows=[(sample.coordinator_answers,)],
    )
    yield _gauge(
        "sample_age_seconds",
        "Age of the figures, by part. They are the last ones that could be read.",
        ("part",),
        [(part.value, now - at) for part, at in sample.read_at.items()],
    )
    failures = CounterMetricFamily(
        f"{PREFIX}sample_failures", "Attempts to read the figures that failed, by part.", labels=("part",)
    )
    for part, count in sample.failures.items():
        failures.add_metric([part.value], count)
    yield failures
    rounds = CounterMetricFamily(
        f"{PREFIX}sample_rounds", "How often the figures were read, for all scrapers together."
    )
    rounds.add_metric([], sample.rounds)
    yield rounds
    yield _gauge("sample_duration_seconds", "How long the last reading of the figures took.", rows=[(sample.round_s,)])


def _workers(reconciler: Reconciler, cluster: ApiConfig) -> Iterator[Metric]:
    registered, pending, withdrawn = reconciler.registration.sort(cluster.workers)
    states = {"registered": registered, "pending": pending, "withdrawn": withdrawn}
    yield _gauge(
        "wanted_workers",
        "Workers of cluster.yaml: registered, pending (not registered yet), withdrawn (removed or disabled by hand).",
        ("state",),
        [(state, len(found)) for state, found in states.items()],
    )
    yield _gauge(
        "worker_registered",
        "Whether a worker of cluster.yaml is registered; a withdrawn one is not listed.",
        ("node",),
        [*((one.address, 1) for one in registered), *((one.address, 0) for one in pending)],
    )


def _nodes(sample: Sample) -> Iterator[Metric]:
    if sample.catalog is None:
        return
    answers = sample.answers
    nodes = [(one.node, one.metadata_synced) for one in sample.catalog.nodes]
    active = [node for node, _ in nodes if node.is_active]
    states = {"known": len(nodes), "active": len(active), "answering": len(answers.figures)}
    yield _gauge(
        "nodes",
        "Nodes in pg_dist_node, those that are active, and those that answered the last question.",
        ("state",),
        states.items(),
    )
    yield _gauge(
        "node_up",
        "Whether an active node serves queries: it answers, and its library fits the extension.",
        ("node", "role"),
        [
            (node.address, "coordinator" if node.is_coordinator else "worker", up)
            for node in active
            if (up := _is_up(answers.figures, answers.silent, node.address)) is not None
        ],
    )
    yield _gauge(
        "node_active",
        "Whether a node is active in pg_dist_node.",
        ("node",),
        [(n.address, n.is_active) for n, _ in nodes],
    )
    yield _gauge(
        "node_metadata_synced",
        "Whether an active primary has the current metadata, as the coordinator records it; no other node gets any.",
        ("node",),
        [(node.address, synced) for node, synced in nodes if node.is_active and node.role == "primary"],
    )
    yield _gauge(
        "node_should_have_shards",
        "Whether a node may hold shards of distributed tables.",
        ("node",),
        [(node.address, node.should_have_shards) for node, _ in nodes],
    )
    found = answers.figures.items()
    yield _gauge(
        "node_connections",
        "Open connections of a node: external ones are those of clients, internal ones those of Citus.",
        ("node", "kind"),
        [
            row
            for node, one in found
            for row in ((node, "external", one.external_connections), (node, "internal", one.internal_connections))
        ],
    )
    yield _gauge(
        "node_connections_limit",
        "max_connections of a node.",
        ("node",),
        [(node, one.max_connections) for node, one in found],
    )
    yield _gauge(
        "node_client_connections_limit",
        "citus.max_client_connections of a node, if it is set.",
        ("node",),
        [(node, one.client_limit) for node, one in found],
    )
    yield _gauge(
        "node_prepared_transactions",
        "Prepared transactions of a node.",
        ("node",),
        [(node, one.prepared_transactions) for node, one in found],
    )
    yield _gauge(
        "node_oldest_prepared_transaction_age_seconds",
        "Age of the oldest prepared transaction of a node, 0 if there is none.",
        ("node",),
        [(node, one.oldest_prepared_s) for node, one in found],
    )
    yield _gauge(
        "node_replication_slots",
        "Replication slots of a node, by state.",
        ("node", "state"),
        [(node, state, one.slots.get(state, 0)) for node, one in found for state in ("active", "inactive", "lost")],
    )
    yield _gauge(
        "node_replication_slot_lag_bytes",
        "The most WAL that a replication slot of a node keeps back, 0 if there is no slot.",
        ("node",),
        [(node, one.slot_lag_bytes) for node, one in found],
    )
    yield _gauge(
        "node_replication_lag_bytes",
        "WAL that a standby has not replayed: on a primary that of its furthest standby, on a standby its own.",
        ("node",),
        [(node, one.lag_bytes) for node, one in found],
    )


def _is_up(
    figures: Mapping[NodeAddress, NodeFigures], silent: Mapping[NodeAddress, str], node: NodeAddress
) -> bool | None:
    """None if the node was not asked."""
    return True if node in figures else False if node in silent else None


def _shards(sample: Sample) -> Iterator[Metric]:
    yield _gauge(
        "node_shards",
        "Shards of distributed tables on a node, by the catalog.",
        ("node",),
        [(node, load.shards) for node, load in sample.loads.items()],
    )
    yield _gauge(
        "node_shard_bytes",
        "Size of the shards of distributed tables on a node, with their indexes.",
        ("node",),
        [(node, load.size_bytes) for node, load in sample.loads.items()],
    )
    if sample.catalog is not None:
        yield _gauge("tables", "Tables that Citus knows, by kind.", ("kind",), sample.catalog.tables.items())


def _disks(sample: Sample, own_disk: Disk) -> Iterator[Metric]:
    disks = [(str(node), one.disk) for node, one in sample.answers.figures.items() if one.disk]
    disks.append((own_disk.holder, own_disk))
    yield _gauge(
        "disk_size_bytes",
        "Size of the disk below a node's data, or below the admin API's container.",
        ("node",),
        [(node, disk.total_bytes) for node, disk in disks],
    )
    yield _gauge(
        "disk_available_bytes",
        "Free space of that disk, without what the file system reserves for root.",
        ("node",),
        [(node, disk.available_bytes) for node, disk in disks],
    )


def _left_over(sample: Sample) -> Iterator[Metric]:
    if sample.catalog is not None:
        yield _gauge(
            "cleanup_records",
            "Objects that Citus has yet to remove after moves and splits (pg_dist_cleanup).",
            rows=[(sample.catalog.cleanup_records,)],
        )


def _rebalance(sample: Sample) -> Iterator[Metric]:
    if sample.rebalance is None:
        return
    status = sample.rebalance.status
    yield _gauge(
        "rebalance_active",
        "Whether a rebalance is scheduled or running.",
        rows=[(status.job_id is not None and not status.state.is_final,)],
    )
    yield _gauge("rebalance_failed", "Whether the latest rebalance failed.", rows=[(status.state is JobState.FAILED,)])
    yield _gauge(
        "rebalance_shards",
        "Shards that the latest rebalance moves, with colocated ones, and those that it has moved.",
        ("state",),
        [("total", status.shards_total), ("done", status.shards_done)],
    )
    yield _gauge(
        "rebalance_bytes",
        "Size of these shards, and what was copied of it.",
        ("state",),
        [("total", status.bytes_total), ("done", status.bytes_done)],
    )
    yield _gauge(
        "rebalance_remaining_seconds",
        "Estimated time until the running rebalance ends.",
        rows=[(status.time_left_s,)],
    )
    yield _gauge(
        "rebalance_tasks", "Tasks of the latest rebalance, by state.", ("state",), sorted(status.tasks.items())
    )
    yield _gauge(
        "rebalance_troubled_tasks",
        "Tasks of the running rebalance that failed, or were retried and are not done.",
        rows=[(sample.rebalance.troubled_tasks,)],
    )
    yield _gauge("rebalance_task_retries", "Retries of these tasks.", rows=[(sample.rebalance.retries,)])


def _tenants(sample: Sample) -> Iterator[Metric]:
    if sample.catalog is None or sample.catalog.tenant_period_s is None:
        return
    tenants = busiest_tenants(use for one in sample.answers.figures.values() for use in one.tenants)
    labels = ("colocation_id", "tenant")
    yield _gauge(
        "tenant_period_seconds",
        "Length of the period in which Citus counts the use of tenants.",
        rows=[(sample.catalog.tenant_period_s,)],
    )
    columns: Mapping[str, tuple[str, Callable[[Any], float]]] = {
        "tenant_queries": ("Queries of a tenant in the last period.", lambda one: one.queries),
        "tenant_reads": ("SELECT statements of a tenant in the last period.", lambda one: one.reads),
        "tenant_cpu_seconds": ("CPU time of a tenant in the last period.", lambda one: one.cpu_s),
    }
    for name, (text, value) in columns.items():
        yield _gauge(name, text, labels, [(one.colocation_id, one.tenant, value(one)) for one in tenants])


def _companions(companions: Iterable[CompanionStatus]) -> Iterator[Metric]:
    found = list(companions)
    yield _gauge(
        "companion_up",
        "Whether a service beside Citus serves, even if only in part.",
        ("service",),
        [(one.service.value, one.condition in {Condition.OK, Condition.DEGRADED}) for one in found],
    )
    lags = {one.service.value: lag for one in found if isinstance(lag := one.figures.get("lag"), Mapping)}
    yield _gauge(
        "companion_replication_lag_bytes",
        "WAL that a replica beside Citus has not replayed yet.",
        ("service",),
        [(service, lag.get("bytes")) for service, lag in lags.items()],
    )
    yield _gauge(
        "companion_replication_lag_seconds",
        "How far a replica beside Citus is behind its primary in time.",
        ("service",),
        [(service, lag.get("seconds")) for service, lag in lags.items()],
    )


__all__ = ["Metrics", "Part", "families"]
