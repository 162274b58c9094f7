"""The Compose file: one flat file, in stable order, from one template for each kind of service."""

import hashlib
from collections.abc import Mapping, Sequence

from citus_cluster.model.component import Service
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.topology import Topology
from citus_cluster.render.templates import environment


def render_compose(
    topology: Topology,
    templates: Mapping[str, str],
    *,
    init_scripts: Sequence[str],
    built_images: Mapping[str, str],
    start_hashes: Mapping[str, str],
) -> str:
    """Render docker-compose.yml.

    ``templates`` are those of compose_templates/ (file name -> text), ``init_scripts`` the names of
    the scripts that a node runs at its first start, ``start_hashes`` the hashes of the files that servers
    read only at their start, by folder. ``built_images`` are the names of images that are built here, by service.
    """
    jinja = environment(templates)
    rendered = [
        jinja.get_template(service.template).render(
            topology=topology,
            service=service,
            facts=service.facts,
            init_scripts=init_scripts,
            built_image=built_images.get(service.name),
            build_context=COMPONENTS[service.component].context_folder(),
            restart_settings=_restart_settings(service, start_hashes),
        )
        for service in topology.services
    ]
    volumes = [f"{service.name}-data" for service in topology.services if service.data]
    volumes += dict.fromkeys(volume for service in topology.services for volume in service.volumes)
    secrets = {secret.name: secret.path for service in topology.services for secret in service.secrets}
    return jinja.get_template("docker-compose.yml").render(
        topology=topology, services=rendered, volumes=volumes, secrets=secrets
    )


def _restart_settings(service: Service, start_hashes: Mapping[str, str]) -> str:
    """Return the value of a label that changes with everything that takes effect only at a restart.

    Compose does not detect changes of mounted files; with this label it recreates the container.
    """
    parts = [_settings_hash(service)] if service.settings else []
    parts += [start_hashes[service.config]] if service.config in start_hashes else []
    return "-".join(parts)


def _settings_hash(service: Service) -> str:
    lines = sorted(f"{setting.name}={setting.value}" for setting in service.settings if setting.restart)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
