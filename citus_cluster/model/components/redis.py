"""Redis: one server."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from citus_cluster.model.component import AsksTcp, Component, ConfigFile, Place, Reread, Secret, Service, Sign
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.tuning.budget import Part
from citus_cluster.model.tuning.servers import Tuning

MEMORY_MB = 128
MAXMEMORY_MB = MEMORY_MB * 3 // 8
"""The part of the container's limit for data: Redis forks to rewrite its file, and every page that is then written is
copied; buffers of clients are added. Measured with overwriting, rewrites and slow readers: with 56 of 128 MB the server
was killed, with 48 it was not."""
_SERVICE = "redis"
# Its append-only file opens with any password, because the password is only in the settings.
PASSWORD = Secret("redis_password", opens_data=False, read_without_root=True)


@dataclass(frozen=True)
class RedisFacts:
    """The values for the settings file."""

    maxmemory_mb: int
    maxmemory_policy: str


class _Redis(Component):
    name = ComponentName.REDIS
    owns = re.compile("redis")
    secrets = (PASSWORD,)
    signs = (
        Sign(
            r"WRONGPASS|NOAUTH",
            "the password of Redis differs from generated/secrets/redis_password",
            "Write the settings again with python setup_citus_cluster.py --yes, then run docker compose restart redis.",
        ),
        Sign(
            r"bad file format reading the append only file|Unexpected end of file reading the append only file",
            "Redis' append-only file is damaged",
            "Copy the volume first, then run: docker compose run --rm redis redis-check-aof --fix "
            "/data/appendonlydir/appendonly.aof.manifest",
        ),
    )

    def part(self, spec: ClusterSpec) -> Part:
        return Part(self.name, fixed_mb=MEMORY_MB)

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        return ((_SERVICE, spec.ports.redis),)

    def image(self, spec: ClusterSpec) -> str:
        return spec.images.redis

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        return (
            Service(
                name=_SERVICE,
                component=self.name,
                container_name=container_name(spec.name, _SERVICE),
                image=self.image(spec),
                publish_on=(spec.bind,),
                host_port=spec.ports.redis,
                port=6379,
                memory_mb=MEMORY_MB,
                template="redis.yml",
                config="redis",
                files=(
                    ConfigFile("redis.conf", "redis.conf"),
                    ConfigFile("healthcheck.sh", "redis-healthcheck.sh", Reread.ALWAYS),
                    ConfigFile("users.acl", "redis-users.acl", Reread.ALWAYS),
                ),
                # Redis answers this without authentication, with an error.
                knock=AsksTcp(b"PING\r\n"),
                data="/data",
                secrets=self.secrets,
                restart_files=("users.acl",),
                restart_reason="its password, or what its user may do,",
                facts=RedisFacts(MAXMEMORY_MB, spec.redis.maxmemory_policy.value),
            ),
        )

    def access(self, services: Sequence[Service], place: Place) -> Iterator[tuple[str, str]]:
        # Inside the container: few machines have a redis-cli of their own.
        opened = "REDISCLI_AUTH=$(cat /run/secrets/redis_password) exec redis-cli"
        for service in services:
            yield service.name, f"docker exec -it {service.container_name} sh -c '{opened}'"


REDIS = _Redis()
