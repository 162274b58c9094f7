"""How a specification records the sharing of the memory (``resources.shared``), so that growth restarts nothing."""

from collections.abc import Collection, Mapping

from citus_cluster.errors import CitusClusterError, DoesNotFitError
from citus_cluster.model.spec import ClusterSpec, Shared, grown_workers
from citus_cluster.model.topology import resolve, tuning_input
from citus_cluster.model.tuning import budget
from citus_cluster.model.tuning.budget import Server, Shares
from citus_cluster.model.tuning.servers import fits_memory
from citus_cluster.model.tuning.sharing import shared_anew, shared_further

_WORKER = "citus-worker"


def with_shares(spec: ClusterSpec, *, known: Collection[int] | None, retune: bool = False) -> ClusterSpec:
    """Fill in how the memory is shared: as before, with the rest for what is new, or again from the start on request.

    ``spec`` has its memory and processors. ``known`` are the numbers of the workers that the cluster already has; None
    for a new cluster. Raises DoesNotFitError if too little is left for what is new.
    """
    resources = spec.resources
    memory_mb, cpus = resources.memory_mb or 0, resources.cpus or 1
    given = tuning_input(spec, memory_mb=memory_mb, cpus=cpus, pg_major=0)
    if given.kept and not retune:
        new = [f"{_WORKER}{number}" for number in spec.worker_numbers if known is not None and number not in known]
        workers = [f"{_WORKER}{number}" for number in spec.worker_numbers]
        try:
            return _keeping(spec, shared_further(given, given.kept, workers, new))
        except DoesNotFitError:
            if known is not None:
                raise
    return _keeping(spec, shared_anew(tuning_input(_without(spec), memory_mb=memory_mb, cpus=cpus, pg_major=0)))


def has_room_for_a_worker(spec: ClusterSpec) -> bool:
    """Return whether the cluster of ``spec`` can get one more worker without dividing the memory again."""
    if spec.resources.shared is None:
        return False
    numbers = spec.worker_numbers
    grown = spec.model_copy(update={"workers": grown_workers(spec.workers, len(numbers) + 1)})
    try:
        with_shares(grown, known=numbers)
    except DoesNotFitError:
        return False
    return True


def with_earlier_shares(
    spec: ClusterSpec, earlier: ClusterSpec, limits: Mapping[str, int], pg_major: int
) -> ClusterSpec:
    """Fill in how a version that recorded no shares has shared the memory.

    ``earlier`` is the specification that it ran with, ``limits`` the generated memory of each service in MB. If these
    do not match, or it did not fit, ``spec`` is returned unchanged.
    """
    memory_mb, cpus = earlier.resources.memory_mb, earlier.resources.cpus
    if memory_mb is None or cpus is None:
        return spec
    given = tuning_input(earlier, memory_mb=memory_mb, cpus=cpus, pg_major=pg_major)
    try:
        topology, _ = resolve(earlier, memory_mb=memory_mb, cpus=cpus, pg_major=pg_major)
    except CitusClusterError:
        return spec
    if (
        not topology.tuning.servers
        or not fits_memory(given)
        or any(limits.get(one.name) != one.memory_mb for one in topology.services if one.settings)
    ):
        return spec
    servers = budget.share(memory_mb, given.parts)
    alone = Server.COORDINATOR in servers and not given.workers
    return _keeping(spec, Shares(given.workers, topology.tuning.citus_clients, servers, holds_shards=alone), memory_mb)


def _without(spec: ClusterSpec) -> ClusterSpec:
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"shared": None})})


def _keeping(spec: ClusterSpec, shares: Shares | None, memory_mb: int | None = None) -> ClusterSpec:
    if shares is None:
        return _without(spec)
    shared = Shared(
        memory_mb=memory_mb or spec.resources.memory_mb or 0,
        workers=shares.workers,
        clients=shares.clients,
        servers={server: _whole(mb) for server, mb in shares.servers.items()},
        nodes={name: _whole(mb) for name, mb in shares.nodes.items()} or None,
        holds_shards=shares.holds_shards or None,
    )
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"shared": shared})})


def _whole(memory_mb: float) -> int | float:
    return int(memory_mb) if memory_mb == int(memory_mb) else memory_mb
