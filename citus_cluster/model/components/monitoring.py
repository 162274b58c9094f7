"""Monitoring: Prometheus, which reads the figures of the admin API, and judges them by its alert rules."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from citus_cluster.model.component import AsksHttp, Component, ConfigFile, Place, Reread, Secret, Service
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.tuning.budget import Part
from citus_cluster.model.tuning.servers import Tuning

MEMORY_MB = 256
"""Prometheus sets the limit of its garbage collector from that of the container (judgement: a cluster has some thousand
series)."""
TOKEN = Secret("monitoring_token", opens_data=False, read_without_root=True, reads_admin_api=True)
_SERVICE = "prometheus"
_API_PORT = 8000


@dataclass(frozen=True)
class MonitoringFacts:
    """The values for the settings and the Compose file: how much is kept, and where the admin API is."""

    retention_days: int
    retention_mb: int
    admin_api: str
    admin_api_port: int


class _Monitoring(Component):
    name = ComponentName.MONITORING
    owns = re.compile(_SERVICE)
    needs = (ComponentName.CITUS, ComponentName.ADMIN_API)
    secrets = (TOKEN,)

    def part(self, spec: ClusterSpec) -> Part:
        return Part(self.name, fixed_mb=MEMORY_MB)

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        return ((_SERVICE, spec.ports.monitoring),)

    def image(self, spec: ClusterSpec) -> str:
        return spec.images.monitoring

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        return (
            Service(
                name=_SERVICE,
                component=self.name,
                container_name=container_name(spec.name, _SERVICE),
                image=self.image(spec),
                publish_on=(spec.bind,),
                host_port=spec.ports.monitoring,
                port=9090,
                memory_mb=MEMORY_MB,
                template="monitoring.yml",
                config="monitoring",
                files=(
                    ConfigFile("prometheus.yml", "monitoring/prometheus.yml"),
                    # Prometheus has templates of its own in them.
                    ConfigFile("recording.yml", "monitoring/recording.yml", verbatim=True),
                    ConfigFile("alerts.yml", "monitoring/alerts.yml", verbatim=True),
                    # For Grafana, which people run themselves; Prometheus does not read it.
                    ConfigFile(
                        "grafana-dashboard.json",
                        "monitoring/grafana-dashboard.json",
                        reread=Reread.ALWAYS,
                        verbatim=True,
                    ),
                ),
                knock=AsksHttp("/-/ready"),
                data="/prometheus",
                secrets=self.secrets,
                restart_secrets=self.secrets,
                facts=MonitoringFacts(
                    retention_days=spec.monitoring.retention_days,
                    retention_mb=spec.monitoring.retention_mb,
                    admin_api=ComponentName.ADMIN_API.value,
                    admin_api_port=_API_PORT,
                ),
            ),
        )

    def access(self, services: Sequence[Service], place: Place) -> Iterator[tuple[str, str]]:
        for service in services:
            yield service.name, f"curl http://{place.host}:{service.host_port}/api/v1/alerts"


MONITORING = _Monitoring()
