"""What the service counts, in the format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """One set for each application."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "http_requests_total", "Requests that were answered.", ("method", "route", "status"), registry=registry
        )
        self.durations = Histogram(
            "http_request_duration_seconds",
            "Time to the end of the answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge("http_requests_in_progress", "Requests that run now.", registry=registry)
        self.reads = Counter(
            "users_reads_total", "Lists of users, by what served them.", ("source",), registry=registry
        )
        self.limited = Counter("rate_limited_requests_total", "Requests answered with 429.", registry=registry)
        self.redis_up = Gauge("redis_up", "Whether the last call of Redis succeeded.", registry=registry)
        self.activity_written = Counter(
            "activity_records_written_total", "Records that Cassandra has confirmed.", registry=registry
        )
        self.activity_dropped = Counter(
            "activity_records_dropped_total", "Records that were dropped.", ("reason",), registry=registry
        )
        self.activity_queued = Gauge("activity_records_queued", "Records that wait for Cassandra.", registry=registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)
