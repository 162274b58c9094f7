"""The admin API: one container beside the coordinator."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from citus_cluster.model.api_config import CLUSTER_FILE, JWT_KEYS_FILE, TOKENS_FILE, ApiConfig, ApiTokens, JwtConfig
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component import AsksHttp, Component, ConfigFile, Reread, Secret, Service, Sign
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.jwt_keys import keys_problem
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import AdminApi, ClusterSpec
from citus_cluster.model.tuning.budget import Part
from citus_cluster.model.tuning.servers import Tuning

MEMORY_MB = 192
DATA_FOLDER = "/var/lib/citus-cluster/data"
"""Where its own volume is mounted, which keeps the record of operations."""
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
                    *_jwt_files(spec.admin_api),
                ),
                data=DATA_FOLDER,
                facts=spec.admin_api,
                knock=AsksHttp(),
                keeps_journal=True,
                secrets=tuple(asked_with),
                # Compose mounts a secret's file, which a new one replaces.
                restart_secrets=tuple(asked_with),
            ),
        )

    def problems(self, spec: ClusterSpec) -> Iterator[str]:
        jwt = spec.admin_api.jwt
        if jwt and not (jwt.admin_values or jwt.read_values):
            yield (
                f"admin_api.jwt: no value of the claim {jwt.role_claim!r} gives a role: set admin_values, "
                "read_values, or both"
            )

    def copy_problem(self, file: ConfigFile, text: str) -> str | None:
        return keys_problem(text)

    def text(self, file: ConfigFile, topology: Any, digests: Mapping[str, str]) -> str:
        if file.name == TOKENS_FILE:
            readers = {
                service.name: digests[secret.name]
                for service in topology.services
                for secret in service.secrets
                if secret.reads_admin_api and service.component is not self.name
            }
            tokens = ApiTokens(admin=digests[ADMIN_TOKEN.name], read=digests[READ_TOKEN.name], services=readers)
            return tokens.to_json()
        return _cluster(topology).to_json()


def _jwt_files(access: AdminApi) -> tuple[ConfigFile, ...]:
    if access.jwt is None or access.jwt.is_url:
        return ()
    return (ConfigFile(JWT_KEYS_FILE, reread=Reread.ALWAYS, copy_of=access.jwt.keys),)


def _jwt(access: AdminApi) -> JwtConfig | None:
    if (jwt := access.jwt) is None:
        return None
    return JwtConfig(
        issuer=jwt.issuer,
        audience=jwt.audience,
        keys_url=jwt.keys if jwt.is_url else None,
        role_claim=jwt.role_claim,
        admin_values=tuple(jwt.admin_values),
        read_values=tuple(jwt.read_values),
    )


def _cluster(topology: Any) -> ApiConfig:
    coordinator = topology.coordinator
    (service,) = topology.of(ComponentName.ADMIN_API)
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
        cors_origins=tuple(service.facts.cors_origins),
        public_origins=tuple(service.facts.public_origins),
        jwt=_jwt(service.facts),
    )


ADMIN_API = _AdminApi()
