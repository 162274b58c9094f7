"""Values that later runs must not change in an existing cluster: name, user, database, PostgreSQL major, addresses."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from citus_cluster.errors import ImmutableError
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.images import tag_version
from citus_cluster.model.topology import Topology

_WAYS = {
    "name": "The volumes' names contain it. Create a new cluster in another directory and move the data (pg_dump).",
    "user": "Rename the role in the database, or create a new cluster in another directory.",
    "database": "Create the database by SQL, or create a new cluster in another directory.",
    "pg_major": "The server would not start on its data. Create a new cluster in another directory and move the data "
    "with pg_dump and pg_restore, or upgrade by hand as Citus documents (pg_upgrade on every node).",
}

_WORKER = "citus-worker"


def identity_of(
    topology: Topology, earlier: Mapping[str, Any], removed_workers: Collection[str] = ()
) -> dict[str, Any]:
    """Return what the manifest keeps; nodes that are switched off stay in it. ``earlier`` is empty at the first run.

    ``removed_workers`` are workers, by service, that have left the cluster: they are kept among the ``removed``,
    because their volumes may still exist.
    """
    here = {node.service: str(node.address) for node in topology.nodes}
    # Components without a volume have no data that another version could have written.
    images = {one.name: one.image for one in topology.companions if one.data}
    addresses = {**earlier.get("addresses", {}), **here}
    gone = {s: a for s, a in addresses.items() if s.startswith(_WORKER) and s not in here and s in removed_workers}
    removed = {**earlier.get("removed", {}), **gone}
    removed = {service: address for service, address in removed.items() if service not in here}
    return {
        "name": topology.name,
        "user": topology.user,
        "database": topology.database,
        "image": topology.citus_image.name,
        "pg_major": topology.citus_image.pg_major,
        "addresses": {service: address for service, address in addresses.items() if service not in gone},
        **({"removed": removed} if removed else {}),
        "companions": {**earlier.get("companions", {}), **images},
    }


def older_images(earlier: Mapping[str, Any], identity: Mapping[str, Any]) -> Iterable[str]:
    """Yield companions whose image is older than the one that wrote their data, as far as both tags show."""
    for service, image in identity["companions"].items():
        before = earlier.get("companions", {}).get(service, image)
        if before is None or image is None:
            continue  # built here, so its name has no version
        old, new = tag_version(before), tag_version(image)
        if new[: len(old)] < old[: len(new)]:
            yield f"image of {service}: {before} → {image}"


def known_workers(identity: Mapping[str, Any]) -> tuple[int, ...]:
    """Numbers of the workers that a cluster has had."""
    return tuple(sorted(_worker_numbers(identity.get("addresses", {}))))


def removed_workers(identity: Mapping[str, Any]) -> Mapping[int, str]:
    """Numbers of the workers that were removed, with their services; their volumes may still exist."""
    removed = identity.get("removed", {})
    return dict(zip(_worker_numbers(removed), removed, strict=True))


def without_removed(earlier: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the earlier identity without the workers that ``identity`` has removed since; None if it has none."""
    removed = identity.get("removed", {})
    if not set(removed) - set(earlier.get("removed", {})):
        return None
    addresses = {service: address for service, address in earlier["addresses"].items() if service not in removed}
    return {**earlier, "addresses": addresses, "removed": {**earlier.get("removed", {}), **removed}}


def _worker_numbers(services: Iterable[str]) -> list[int]:
    return [int(name.removeprefix(_WORKER)) for name in services if name.startswith(_WORKER)]


def refuse_immutable(earlier: Mapping[str, Any], identity: Mapping[str, Any], topology: Topology) -> None:
    """Compare with the identity that an ``earlier`` run kept. Raises ImmutableError, with the ways to change it."""
    labels = {"pg_major": "PostgreSQL major"}
    details = []
    hints = []
    for key, way in _WAYS.items():
        old, new = earlier.get(key), identity[key]
        if old is not None and old != new:
            details.append(f"{labels.get(key, key)}: {old} → {new}")
            hints.append(way)
    for change in older_images(earlier, identity):
        details.append(change)
        hints.append("A newer version wrote the data, and an older one cannot read them. Keep the newer image.")
    for service, address in earlier.get("addresses", {}).items():
        if identity["addresses"].get(service, address) != address:
            details.append(f"address of {service}: {address} → {identity['addresses'][service]}")
            hints.append(
                "Other nodes know this one by its address (--advertise and --port), so keep it. If nothing was started "
                "yet, remove generated/manifest.json and run the command again with --force."
            )
    if details:
        raise ImmutableError(
            "These values cannot change in an existing cluster; nothing was written.",
            details=details,
            hint=" ".join(dict.fromkeys(hints)),
        )
    if ComponentName.CITUS in topology.components:
        here = {node.service for node in topology.nodes}
        missing = [service for service in identity["addresses"] if service not in here]
        if missing:
            raise ImmutableError(
                f"This would remove {', '.join(missing)} from the cluster, with the shards there; nothing was written.",
                hint=_way_to_leave([service for service in missing if service.startswith(_WORKER)]),
            )


def _way_to_leave(workers: Collection[str]) -> str:
    if not workers:
        return "A cluster must keep its coordinator: set coordinator: true."
    removals = "; ".join(f"citus-cluster nodes remove {service}" for service in workers)
    return (
        "Keep the number of workers. Drain and remove workers with these commands, which also change cluster.yaml: "
        f"citus-cluster nodes drain {' '.join(workers)} --wait; {removals}"
    )
