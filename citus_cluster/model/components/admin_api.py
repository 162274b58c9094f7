"""The admin API: one container beside the coordinator."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from citus_cluster.model.api_config import CLUSTER_FILE, TOKENS_FILE, ApiConfig, ApiTokens
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component import AsksHttp, Component, ConfigFile, Reread, Secret, Service, Sign
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.tuning.budget import Part
from citus_cluster.model.tuning.servers import Tuning

MEMORY_MB = 192
ADMIN_TOKEN = Secret("admin_api_token", opens_data=False, for_admin_api=False)
READ_TOKEN = Secret("admin_api_read_token", opens_data=False, for_admin_api=False)


class _AdminApi(Component):
    name = ComponentName.ADMIN_API
    owns = re.compile("admin-api")
    companion = False
    context = "admin-api"
    secrets = (ADMIN_TOKEN, READ_TOKEN)
    signs = (
        Sign(
            r"is not registered",
            "the admin API is waiting for workers that cannot be registered",
            "See the reasons above; citus-cluster status shows every node.",
            is_symptom=True,
        ),
    )

    def part(self, spec: ClusterSpec) -> Part:
        return Part(self.name, fixed_mb=MEMORY_MB, companion=False)

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        return ((self.name.value, spec.ports.admin_api),)

    def image(self, spec: ClusterSpec) -> str | None:
        return spec.images.admin_api

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        asked_with = dict.fromkeys(one for other in others for one in other.secrets if one.for_admin_api)
        return (
            Service(
                name=self.name.value,
                component=self.name,
                container_name=container_name(spec.name, self.name.value),
                image=self.image(spec),
                publish_on=(spec.bind,),
                host_port=spec.ports.admin_api,
                port=8000,
                memory_mb=MEMORY_MB,
                template="admin-api.yml",
                config="admin-api",
                files=(
                    ConfigFile(CLUSTER_FILE, reread=Reread.ALWAYS),
                    ConfigFile(TOKENS_FILE, reread=Reread.ALWAYS),
                ),
                knock=AsksHttp(),
                keeps_journal=True,
                secrets=tuple(asked_with),
                # Compose mounts a secret's file, which a new one replaces.
                restart_secrets=tuple(asked_with),
            ),
        )

    def text(self, file: ConfigFile, topology: Any, digests: Mapping[str, str]) -> str:
        if file.name == TOKENS_FILE:
            return ApiTokens(admin=digests[ADMIN_TOKEN.name], read=digests[READ_TOKEN.name]).to_json()
        return _cluster(topology).to_json()


def _cluster(topology: Any) -> ApiConfig:
    coordinator = topology.coordinator
    assert coordinator is not None, "the specification refuses an admin API without a coordinator"  # noqa: S101

    def address(service: Service) -> NodeAddress:
        return NodeAddress(service.name, service.port)

    beside = dict.fromkeys(service.component for service in topology.companions)
    return ApiConfig(
        cluster=topology.name,
        user=topology.user,
        database=topology.database,
        coordinator=NodeAddress(coordinator.service, topology.service(coordinator.service).port),
        coordinator_address=coordinator.address,
        workers=tuple(worker.address for worker in topology.workers),
        components=tuple(Target.of(component, topology.of(component), address) for component in beside),
    )


ADMIN_API = _AdminApi()
