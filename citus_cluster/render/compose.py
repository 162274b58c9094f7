"""The Compose file: one flat file, in stable order, from one template for each kind of service."""

import hashlib
from collections.abc import Mapping, Sequence

from citus_cluster.model.companions import PG14_DATABASE, PG14_USER, Pg14Server
from citus_cluster.model.topology import Node, Topology
from citus_cluster.render.templates import environment


def render_compose(
    topology: Topology,
    templates: Mapping[str, str],
    *,
    init_scripts: Sequence[str],
    admin_api_context_hash: str,
    companion_hashes: Mapping[str, str],
) -> str:
    """Render docker-compose.yml.

    ``templates`` are those of compose_templates/ (file name -> text), ``init_scripts`` the names of
    the scripts that a node runs at its first start, ``companion_hashes`` the hashes of what each companion
    reads at its start only, by folder. The image of the admin API is named by the hash of its build context, so
    that a changed context is built anew, and an unchanged one is not, wherever the directory was copied.
    """
    jinja = environment(templates)
    services = [
        jinja.get_template(f"{node.role}.yml").render(
            topology=topology,
            node=node,
            image=topology.citus_image,
            init_scripts=init_scripts,
            restart_hash=restart_hash(node),
        )
        for node in topology.nodes
    ]
    for server in topology.pg14:
        services.append(
            jinja.get_template("pg14.yml").render(
                topology=topology,
                server=server,
                user=PG14_USER,
                database=PG14_DATABASE,
                restart_hash=restart_hash(server),
                start_hash=companion_hashes[server.config],
            )
        )
    if topology.redis:
        template = jinja.get_template("redis.yml")
        hashed = companion_hashes[topology.redis.config]
        services.append(template.render(topology=topology, redis=topology.redis, start_hash=hashed))
    for node in topology.cassandra:
        template = jinja.get_template("cassandra.yml")
        services.append(template.render(topology=topology, node=node, start_hash=companion_hashes[node.config]))
    if topology.admin_api:
        services.append(
            jinja.get_template("admin-api.yml").render(
                topology=topology,
                api=topology.admin_api,
                secrets=[name for name in _secrets(topology) if not name.startswith("replicator")],
                built_image=f"citus-cluster-admin-api:{admin_api_context_hash[:12]}",
            )
        )
    volumes = [f"{member.service}-data" for member in (*topology.nodes, *topology.companions)]
    volumes += ["pg14-role"] if topology.pg14 else []
    return jinja.get_template("docker-compose.yml").render(
        topology=topology, services=services, volumes=volumes, secrets=_secrets(topology)
    )


def _secrets(topology: Topology) -> list[str]:
    """Names of the secrets that containers get, which are those of their files."""
    return [
        *(["superuser_password"] if topology.nodes else []),
        *(["pg14_password", "replicator_password"] if topology.pg14 else []),
        *(["redis_password"] if topology.redis else []),
        *(["cassandra_password"] if topology.cassandra else []),
    ]


def restart_hash(node: Node | Pg14Server) -> str:
    """Hash of the settings that take effect at a restart only.

    Compose does not see that a mounted file has changed; through this value in a label it does.
    """
    lines = sorted(f"{setting.name}={setting.value}" for setting in node.settings if setting.restart)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
