"""Guards of existing data: a set-up must not lock the user out of them, or remove a part of them."""

from collections.abc import Mapping
from typing import Any

from citus_cluster.errors import ImmutableError, LeftoverVolumesError
from citus_cluster.model.components import wanted
from citus_cluster.model.identity import removed_workers
from citus_cluster.model.names import volume_name
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.topology import Topology
from citus_cluster.operations.setup.request import HostResources, SetupRequest, taken_numbers
from citus_cluster.runtime.store import secrets
from citus_cluster.runtime.store.files import Manifest


def has_password(request: SetupRequest) -> bool:
    return request.password is not None or secrets.saved(request.root, secrets.SUPERUSER_PASSWORD) is not None


def refuse_lockout(
    request: SetupRequest, spec: ClusterSpec, resources: HostResources, previous: Manifest | None
) -> None:
    """Refuse a new password that would lock the user out of data of an earlier cluster, or of this one.

    Raises LeftoverVolumesError.
    """
    lost = [
        (component, secret)
        for component in wanted(spec)
        for secret in component.secrets
        if secret.opens_data and secret.path != secrets.SUPERUSER_PASSWORD
        if secrets.saved(request.root, secret.path) is None
    ]
    superuser_lost = not has_password(request)
    if resources.engine is None:
        had = previous.identity.get("companions", {}) if previous else {}
        paths = [secret.path for component, secret in lost if any(component.owns.fullmatch(one) for one in had)]
        paths += [secrets.SUPERUSER_PASSWORD] if previous and superuser_lost else []
        if paths:
            raise LeftoverVolumesError(
                f"{', '.join(paths)} of this cluster is missing, and no Docker engine can tell whether the "
                "cluster has data, "
                "which a new password would not open; nothing was written.",
                hint="Restore the file, or give the superuser's password with --password-file, or start the engine "
                "and run the command again.",
            )
        return
    volumes = resources.engine.project_volumes(spec.name) if lost or superuser_lost else ()
    lost = [(component, secret) for component, secret in lost if any(component.keeps(spec.name, v) for v in volumes)]
    if not superuser_lost:
        volumes = tuple(v for v in volumes if any(component.keeps(spec.name, v) for component, _ in lost))
    if not volumes:
        return
    homes = {container.working_dir for container in resources.engine.project_containers(spec.name)}
    where = "".join(f" ({home})" for home in sorted(home for home in homes if home))
    way = (
        "give its password with --password-file"
        if superuser_lost
        else f"restore {' and '.join(secret.path for _, secret in lost)}"
    )
    raise LeftoverVolumesError(
        f"Volumes of an earlier cluster named {spec.name!r} exist on this engine, "
        "and a new password would not open them; nothing was written.",
        details=volumes,
        hint=f"Run in that cluster's directory{where}; or {way}; or choose another --name; or, if you do not need "
        "their "
        f"data, remove them: docker volume rm {' '.join(volumes)}",
    )


def refuse_lost_services(
    spec: ClusterSpec, topology: Topology, earlier: Mapping[str, Any], resources: HostResources
) -> None:
    """Refuse to remove a service of a component if its data would be lost.

    ``earlier`` is the identity of an earlier run. Raises ImmutableError.
    """
    for component in wanted(spec):
        here = {service.name for service in topology.of(component.name)}
        gone = [name for name in earlier.get("companions", {}) if component.owns.fullmatch(name) and name not in here]
        if gone and resources.engine:
            volumes = resources.engine.project_volumes(topology.name)
            gone = [name for name in gone if volume_name(topology.name, name) in volumes]
        if gone and (loss := component.loss_of(gone, topology.name)):
            raise ImmutableError(loss[0], hint=loss[1])


def refuse_return(topology: Topology, previous: Manifest | None, resources: HostResources) -> None:
    """Refuse a removed worker that would come back with its old data.

    Raises ImmutableError.
    """
    removed = removed_workers(previous.identity) if previous else {}
    back = [worker for worker in topology.workers if worker.number in removed]
    taken = taken_numbers(previous, resources) if back else frozenset()
    back = [worker for worker in back if worker.number in taken]
    if not back:
        return
    services = ", ".join(worker.service for worker in back)
    volumes = " ".join(volume_name(topology.name, worker.service) for worker in back)
    raise ImmutableError(
        f"{services} was removed from the cluster, but its volume still exists with its old data; nothing was written.",
        hint=f"Remove it from cluster.yaml: citus-cluster nodes remove {back[0].service}; --workers=N gives new "
        f"workers free numbers. To use the number again, remove its volume first: docker volume rm {volumes}",
    )
