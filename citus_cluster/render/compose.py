"""The Compose file: one flat file, in stable order, from one template for each kind of service."""

import hashlib
from collections.abc import Mapping, Sequence

from citus_cluster.model.topology import Node, Topology
from citus_cluster.render.templates import environment


def render_compose(
    topology: Topology, templates: Mapping[str, str], *, init_scripts: Sequence[str], admin_api_context_hash: str
) -> str:
    """Render docker-compose.yml.

    ``templates`` are those of compose_templates/ (file name -> text), ``init_scripts`` the names of
    the scripts that a node runs at its first start. The image of the admin API
    is named by the hash of its build context, so that a changed context is built anew, and an
    unchanged one is not, wherever the directory was copied.
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
    if topology.admin_api:
        services.append(
            jinja.get_template("admin-api.yml").render(
                topology=topology,
                api=topology.admin_api,
                built_image=f"citus-cluster-admin-api:{admin_api_context_hash[:12]}",
            )
        )
    volumes = [f"{node.service}-data" for node in topology.nodes]
    return jinja.get_template("docker-compose.yml").render(topology=topology, services=services, volumes=volumes)


def restart_hash(node: Node) -> str:
    """Hash of the settings that take effect at a restart only.

    Compose does not see that a mounted file has changed; through this value in a label it does.
    """
    lines = sorted(f"{setting.name}={setting.value}" for setting in node.settings if setting.restart)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
