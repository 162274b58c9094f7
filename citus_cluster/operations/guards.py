"""What a set-up must not do to data that are there: lock the user out of them, or take a part of them away."""

from collections.abc import Mapping
from typing import Any

from citus_cluster.errors import ImmutableError, LeftoverVolumesError
from citus_cluster.model.companions import cassandra_service
from citus_cluster.model.identity import removed_workers
from citus_cluster.model.names import volume_name
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.spec import MAX_CASSANDRA_NODES, ClusterSpec
from citus_cluster.model.topology import Topology
from citus_cluster.operations.request import Machine, SetupRequest, taken_numbers
from citus_cluster.runtime import secrets
from citus_cluster.runtime.files import Manifest


def has_password(request: SetupRequest) -> bool:
    return request.password is not None or secrets.saved(request.root, secrets.SUPERUSER_PASSWORD) is not None


def refuse_lockout(request: SetupRequest, spec: ClusterSpec, machine: Machine, previous: Manifest | None) -> None:
    """A new password would lock the user out of data that an earlier cluster left, or that this one has.

    Raises LeftoverVolumesError.
    """
    lost = [
        path
        for service in COMPANIONS
        if service in spec.wanted and service is not ComponentName.REDIS  # its data open with any password
        for path in secrets.OF_SERVICE[service]
        if secrets.saved(request.root, path) is None
    ]
    superuser_lost = not has_password(request)
    if machine.engine is None:
        had = previous.identity.get("companions", {}) if previous else {}
        lost = [path for path in lost if any(_opens(path, service) for service in had)]
        lost += [secrets.SUPERUSER_PASSWORD] if previous and superuser_lost else []
        if lost:
            raise LeftoverVolumesError(
                f"{', '.join(lost)} of this cluster is missing, and no Docker engine tells whether it has data, "
                "which a new password would not open; nothing was written.",
                hint="Put the file back, or give the superuser's password with --password-file; or start the engine "
                "and run the command again.",
            )
        return
    volumes = machine.engine.project_volumes(spec.name) if lost or superuser_lost else ()
    services = {volume: volume.removeprefix(f"{spec.name}_") for volume in volumes}
    lost = [path for path in lost if any(_opens(path, service) for service in services.values())]
    if not superuser_lost:
        volumes = tuple(one for one, service in services.items() if any(_opens(path, service) for path in lost))
    if not volumes:
        return
    homes = {container.working_dir for container in machine.engine.project_containers(spec.name)}
    where = "".join(f" ({home})" for home in sorted(home for home in homes if home))
    way = "give its password with --password-file" if superuser_lost else f"put {' and '.join(lost)} back"
    raise LeftoverVolumesError(
        f"Volumes of an earlier cluster named {spec.name!r} are on this engine, "
        "and a new password would not open them; nothing was written.",
        details=volumes,
        hint=f"Run in that cluster's directory{where}; or {way}; or choose another --name; or, if nothing in them is "
        f"needed, remove them: docker volume rm {' '.join(volumes)}",
    )


def _opens(path: str, name: str) -> bool:
    """Tell whether a companion's secret belongs to a service, or to a volume without its project."""
    return name.startswith(next(service.value for service, paths in secrets.OF_SERVICE.items() if path in paths))


def refuse_smaller_ring(topology: Topology, earlier: Mapping[str, Any], machine: Machine) -> None:
    """A node of Cassandra that is left out takes its part of the data with it, unless it was decommissioned.

    ``earlier`` is the identity of an earlier run. Raises ImmutableError.
    """
    here = {node.service for node in topology.cassandra}
    if not here:
        return  # switched off: nothing leaves the ring
    ring = [cassandra_service(number) for number in range(1, MAX_CASSANDRA_NODES + 1)]
    gone = [service for service in ring if service in earlier.get("companions", {}) and service not in here]
    if machine.engine:
        volumes = machine.engine.project_volumes(topology.name)
        gone = [service for service in gone if volume_name(topology.name, service) in volumes]
    if gone:
        last = gone[-1]
        raise ImmutableError(
            f"This would take {', '.join(gone)} out of Cassandra's ring, with the data there; nothing was written.",
            hint=f"Keep the number of nodes; or first, from the last to the first of them: docker compose exec {last} "
            f"nodetool decommission --force; docker compose rm -sf {last}; "
            f"docker volume rm {volume_name(topology.name, last)}. docs/services.md has all steps.",
        )


def refuse_return(topology: Topology, previous: Manifest | None, machine: Machine) -> None:
    """A worker that was removed must not come back with the data that it had, unless that is gone.

    Raises ImmutableError.
    """
    removed = removed_workers(previous.identity) if previous else {}
    back = [worker for worker in topology.workers if worker.number in removed]
    taken = taken_numbers(previous, machine) if back else frozenset()
    back = [worker for worker in back if worker.number in taken]
    if not back:
        return
    services = ", ".join(worker.service for worker in back)
    volumes = " ".join(volume_name(topology.name, worker.service) for worker in back)
    raise ImmutableError(
        f"{services} was removed from the cluster, and its volume is here still, with what it held then; nothing was "
        "written.",
        hint=f"Take it out of cluster.yaml: citus-cluster nodes remove {back[0].service}; --workers=N gives new "
        f"workers free numbers. Or, to use the number again, remove its volume first: docker volume rm {volumes}",
    )
