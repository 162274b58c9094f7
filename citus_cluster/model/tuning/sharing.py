"""How memory is shared among running servers: they keep what they have, and new ones get what is left.

A server gets another share of the memory, or another number of connections, only by a restart. So a set-up plans both
for a few more workers than it creates, and keeps them; see :class:`Shares`. Figures are MB.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from citus_cluster.errors import DoesNotFitError
from citus_cluster.model.tuning import budget
from citus_cluster.model.tuning.budget import CITUS_SERVERS, ROOM, Server, Shares
from citus_cluster.model.tuning.servers import (
    RETUNE,
    TuningInput,
    carry,
    clients_of,
    fits_memory,
    groups,
    shortage,
    wanted_clients,
)
from citus_cluster.model.units import count

_ROUNDING_MB = 1.0
"""Limits are whole MB; shares of earlier versions were not."""


def shared_anew(given: TuningInput) -> Shares | None:
    """Share the memory among all wanted services, with room for more workers; None if they do not fit."""
    counts = {server: number for server in Server if (number := given.number_of(server))}
    return _shared(given, Shares(0, 0, {}), counts, budget.usable_mb(given.total_mb, given.parts))


def shared_further(given: TuningInput, kept: Shares, workers: Collection[str], new_workers: Sequence[str]) -> Shares:
    """Keep the shares of what runs, and give the remaining memory to what is new.

    ``workers`` are all wanted workers, by service. Raises DoesNotFitError, with what would fit.
    """
    wanted = {server: given.number_of(server) for server in Server}
    kept = replace(
        kept,
        # Citus nodes continue to run when Citus is switched off.
        servers={server: mb for server, mb in kept.servers.items() if wanted[server] or server in CITUS_SERVERS},
        nodes={name: mb for name, mb in kept.nodes.items() if name in workers and name not in new_workers},
    )
    new = [name for name in new_workers if Server.WORKER in kept.servers]
    there = {server: wanted[server] for server in kept.servers if wanted[server]}
    if there.get(Server.WORKER):
        there[Server.WORKER] -= len(kept.nodes) + len(new)
    taken_mb = sum(kept.servers[server] * number for server, number in there.items()) + sum(kept.nodes.values())
    left_mb = budget.usable_mb(given.total_mb, given.parts) - taken_mb
    if left_mb < -_ROUNDING_MB:
        raise _refusal(given, f"The cluster would need {math.ceil(-left_mb):,} MB more memory than is available")
    left_mb = max(0.0, left_mb)
    if new:
        kept = _with_workers(given, kept, new, left_mb)
        left_mb -= sum(kept.nodes.get(name, kept.servers[Server.WORKER]) for name in new)
    kinds = {server: number for server, number in wanted.items() if number and server not in kept.servers}
    found = _shared(given, kept, kinds, left_mb) if kinds else kept
    if found is None:
        names = " and ".join(_NAMES[server] for server in kinds)
        raise _refusal(given, f"{math.floor(left_mb):,} MB of memory are left, which is not enough for {names}")
    _refuse_lack_of_connections(replace(given, kept=found))
    return found


_NAMES = {
    Server.COORDINATOR: "the coordinator",
    Server.WORKER: "the workers",
    Server.PLAIN: "PostgreSQL servers without Citus",
}


def _shared(given: TuningInput, kept: Shares, kinds: Mapping[Server, int], left_mb: float) -> Shares | None:
    """Share what is left among new kinds of servers, besides what is ``kept``; None if they do not fit.

    No new server gets more for its weight than existing ones. If Citus is new here, room for more workers is kept.
    """
    most_mb = min((mb / budget.weight({server: 1}) for server, mb in kept.servers.items()), default=math.inf)
    citus_is_new = not kept.servers.keys() & set(CITUS_SERVERS) and bool(kinds.keys() & set(CITUS_SERVERS))

    def shared(room: int) -> Shares:
        counts = {**kinds, Server.WORKER: kinds.get(Server.WORKER, 0) + room}
        unit_mb = min(most_mb, left_mb / max(1, budget.weight(counts)))
        # Whole MB, so that the limits of the containers add up to no more than there is.
        more = {server: float(math.floor(mb)) for server, mb in budget.by_weight(unit_mb, counts).items()}
        found = replace(kept, servers={**kept.servers, **more})
        if not citus_is_new:
            return found
        return replace(found, workers=given.workers + room, clients=0, holds_shards=not given.workers)

    found = shared(0)
    if not kinds or not fits_memory(replace(given, kept=found)):
        return None
    if not citus_is_new:
        return found
    most = _clients(given, found)
    for room in range(ROOM, 0, -1):
        if clients := _clients_with_room(replace(given, kept=shared(room)), most):
            return replace(shared(room), clients=clients)
    return replace(found, clients=most)


def _clients(given: TuningInput, shares: Shares) -> int:
    """Return the number of clients of the Citus nodes."""
    shared = replace(given, kept=shares)
    return clients_of(shared, groups(shared.shares)[0])


def _clients_with_room(given: TuningInput, most: int) -> int:
    """Return the number of clients, at most ``most``, if room is planned; 0 if too few are left."""
    citus, *others = groups(given.shares)
    work_mem_mb = budget.WORK_MEM_WITH_ROOM_MB
    if not all(carry(given, servers, budget.CLIENTS_ENOUGH, work_mem_mb) for servers in others):
        return 0
    clients = budget.largest(most, lambda number: carry(given, citus, number, work_mem_mb))
    least = most if wanted_clients(given, citus) else max(budget.CLIENTS_ENOUGH, budget.CLIENTS_WITH_ROOM * most)
    return clients if clients >= least else 0


def _with_workers(given: TuningInput, kept: Shares, new: Sequence[str], left_mb: float) -> Shares:
    """Give new workers as much as the others have, or else equal parts of what is left, if that is enough."""
    usual_mb = kept.servers[Server.WORKER]
    if len(new) * usual_mb <= left_mb + _ROUNDING_MB:
        return kept

    def carries(workers: int) -> bool:
        memory_mb = math.floor(left_mb / workers)
        own = replace(kept, servers={Server.WORKER: memory_mb})
        return carry(replace(given, kept=own), (Server.WORKER,), _clients(given, kept), budget.WORK_MEM_LEAST_MB)

    if not carries(len(new)):
        fewer = next((number for number in range(len(new) - 1, 0, -1) if carries(number)), 0)
        ways = [f"--workers={given.workers - len(new) + fewer}"] if fewer else []
        told = f"{count(len(new), 'new worker')} need{'' if len(new) > 1 else 's'} {math.ceil(usual_mb):,} MB of memory"
        told += " each" if len(new) > 1 else ""
        raise _refusal(given, f"{told}, but only {math.floor(left_mb):,} MB are left", ways)
    return replace(kept, nodes={**kept.nodes, **dict.fromkeys(new, float(math.floor(left_mb / len(new))))})


def _refuse_lack_of_connections(given: TuningInput) -> None:
    """Refuse too many workers: beyond the planned number, their connections are taken from the clients."""
    unplanned = given.unplanned_clients
    if not unplanned or not given.number_of(Server.COORDINATOR):
        return
    planned = clients_of(given, groups(given.shares)[0])
    if given.connections or planned - unplanned < budget.CLIENTS_LEAST:
        workers = given.planned_workers
        raise _refusal(given, f"The connections of the nodes are planned for only {count(workers, 'worker')}")


def _refusal(given: TuningInput, reason: str, ways: Sequence[str] = ()) -> DoesNotFitError:
    anew = replace(given, kept=None)
    if fits_memory(anew):
        hint = f"What would fit: {', or '.join([*ways, RETUNE])}."
        return DoesNotFitError(f"{reason}; nothing was written.", hint=hint)
    message, hint = shortage(anew)
    return DoesNotFitError(f"{reason}. {message}", hint=hint)
