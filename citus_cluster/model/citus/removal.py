"""Whether a worker may leave, and what it holds: decisions from what the nodes report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from citus_cluster.errors import CitusClusterError, InUseError, UsageError
from citus_cluster.model.citus.names import closest
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.documents import Documented
from citus_cluster.model.units import count, size


@dataclass(frozen=True)
class HeldTable(Documented):
    """Shards of one table on a node: their number, how many of them exist only there, bytes (None: unknown)."""

    table: str
    shards: int
    only_copies: int
    size_bytes: int | None

    def __str__(self) -> str:
        room = "" if self.size_bytes is None else f", {size(self.size_bytes)}"
        return f"{self.table}: {count(self.shards, 'shard')}{room}"


@dataclass(frozen=True)
class DepartureDocument:
    """A worker that is to leave, and the shards that it holds."""

    host: str
    port: int
    registered: bool
    active: bool
    should_have_shards: bool
    answers: bool
    shard_count: int
    tables: tuple[HeldTable, ...]


@dataclass(frozen=True)
class Departure(Documented):
    """Everything about a worker that is to leave.

    ``name``: as the user named it. ``node``: None if it is not in the node list. ``recorded``: whether our record
    lists it. ``silence``: why it does not answer (None: it does). ``held``: distributed tables only, because every node
    has a copy of a reference table. ``shard_targets``: the other nodes that may hold shards. ``standbys``: the other
    nodes of its group. ``others_unreachable``: a line for each other node that does not answer. ``drained``: other
    workers that could hold shards again. ``twin``: the address under which the same server is registered, if that is
    another one.
    """

    name: str
    address: NodeAddress
    node: RegisteredNode | None
    recorded: bool
    coordinator: NodeAddress | None
    silence: str | None
    identifier: str | None
    held: tuple[HeldTable, ...]
    shard_targets: tuple[NodeAddress, ...]
    standbys: tuple[NodeAddress, ...]
    others_unreachable: tuple[str, ...]
    drained: tuple[NodeAddress, ...] = ()
    twin: NodeAddress | None = None

    @property
    def shards(self) -> int:
        return sum(table.shards for table in self.held)

    @property
    def only_copies(self) -> int:
        return sum(table.only_copies for table in self.held)

    def document(self) -> DepartureDocument:
        return DepartureDocument(
            host=self.address.host,
            port=self.address.port,
            registered=self.node is not None,
            active=self.node is not None and self.node.is_active,
            should_have_shards=self.node is not None and self.node.should_have_shards,
            answers=self.silence is None,
            shard_count=self.shards,
            tables=self.held,
        )


def refuse_drain(departures: Sequence[Departure]) -> None:
    """Raise UsageError or InUseError if shards cannot be moved off one of the workers, which leave together."""
    for found in departures:
        node = _registered_worker(found)
        if not node.is_active:
            raise InUseError(
                f"{found.address} is disabled, so its shards cannot be moved.",
                hint=f"{_activation(found)}. If other nodes have copies of all its shards, you can remove it now: "
                f"citus-cluster nodes remove {found.name}",
            )
        if found.silence:
            raise InUseError(
                f"{_clause(found.silence)}, so its shards cannot be moved.",
                details=[str(table) for table in found.held],
                hint=_way_back(found)
                if found.shards
                else f"It holds no shards, so you can remove it now: citus-cluster nodes remove {found.name}",
            )
    _refuse_last(departures)


def refuse_undo(found: Departure) -> None:
    """Raise UsageError or InUseError if the worker cannot hold shards again: every active node must answer for that."""
    node = _registered_worker(found)
    if not node.is_active:
        raise InUseError(
            f"{found.address} is disabled, so it cannot hold shards.",
            hint=f"{_activation(found)}. Then run the command again.",
        )
    stop = "Then run the command again. To end the moves now: citus-cluster rebalance stop"
    if found.silence:
        raise InUseError(
            f"{_clause(found.silence)}, so it cannot hold shards again.",
            hint=f"{_start(found.address)}. {stop}",
        )
    if found.others_unreachable:
        raise InUseError(
            f"{found.address} cannot hold shards again, because Citus must tell every active node, and not all "
            "answer: " + " ".join(found.others_unreachable),
            hint=f"Start or unpause the nodes named above. {stop}",
        )


def _activation(found: Departure) -> str:
    return f"Activate it first: add_worker.py --host {found.address.host} --port {found.address.port}"


def refuse_removal(found: Departure, *, force: bool) -> None:
    """Raise UsageError or InUseError if the worker must stay, because of its shards or because the cluster needs it.

    ``force`` gives up the copies of shards that other nodes have too.
    """
    if found.node is None:
        _refuse_mistaken(found)
        return
    _registered_worker(found)
    if found.standbys:
        removals = " ".join(f"SELECT citus_remove_node('{one.host}', {one.port});" for one in found.standbys)
        raise InUseError(
            f"{found.address} has standbys in the node list: {', '.join(map(str, found.standbys))}.",
            hint=f"Remove them first, in psql on the coordinator: {removals}",
        )
    if found.others_unreachable:
        raise InUseError(
            f"{found.address} cannot be removed, because Citus must tell every active node, and not all answer: "
            + " ".join(found.others_unreachable),
            hint="Start or unpause the nodes named above. If one of them is lost, remove that one first.",
        )
    if found.only_copies:
        raise _still_holds(found)
    if found.shards and not force:
        raise InUseError(
            f"{found.address} holds copies of {count(found.shards, 'shard')} that other nodes have too; nothing was "
            "changed.",
            details=[str(table) for table in found.held],
            hint=f"citus-cluster nodes drain {found.name} --wait moves those that have room elsewhere. Add --force to "
            "give up these copies instead.",
        )
    if found.node.is_active:
        _refuse_last([found])


def _registered_worker(found: Departure) -> RegisteredNode:
    if found.node is None:
        raise UsageError(f"{found.address} is not in the node list.", hint="List the nodes: citus-cluster status")
    if found.node.is_coordinator:
        raise UsageError(f"{found.address} is the coordinator; only workers can be removed.")
    if found.node.role != "primary":
        raise UsageError(
            f"{found.address} is a {found.node.role} of another node, not a worker.",
            hint="Remove it in psql on the coordinator: "
            f"SELECT citus_remove_node('{found.address.host}', {found.address.port});",
        )
    return found.node


def _refuse_mistaken(found: Departure) -> None:
    """Refuse a server that is registered under another name: its record must not be deleted."""
    if found.twin:
        raise InUseError(
            f"{found.address} is registered under another name, {found.twin}.",
            hint=f"Remove it by that name: citus-cluster nodes remove {found.twin}",
        )
    if found.silence and found.others_unreachable:
        raise InUseError(
            f"{found.address} is not in the node list and does not answer. Other nodes do not answer either, and one "
            "of them may be the same server under another name: " + " ".join(found.others_unreachable),
            hint="Start or unpause them, then run the command again.",
        )


def _refuse_last(departures: Sequence[Departure]) -> None:
    if any(found.shard_targets for found in departures):
        return
    own, drained = departures[0].coordinator, " ".join(called(address) for address in departures[0].drained)
    ways = [f"let drained workers hold shards again (citus-cluster nodes drain {drained} --undo)"] if drained else []
    ways.append("add another worker first (setup_citus_cluster.py --workers=N --yes --up)")
    if own:
        ways.append(f"let the coordinator hold shards: citus-cluster nodes set {called(own)} --holds-shards")
    hint = ". Or ".join(ways)
    addresses = [str(found.address) for found in departures]
    names = " and ".join(filter(None, [", ".join(addresses[:-1]), addresses[-1]]))
    raise InUseError(
        f"No node would be left to hold shards without {names}: the shards cannot be moved, and no new table could be "
        "distributed.",
        hint=hint[0].upper() + hint[1:],
    )


def _still_holds(found: Departure) -> InUseError:
    details = [str(table) for table in found.held if table.only_copies]
    shards = count(found.only_copies, "shard")
    if found.silence is None:
        return InUseError(
            f"{found.address} still holds the only copy of {shards}; nothing was changed.",
            details=details,
            hint=f"Move them first: citus-cluster nodes drain {found.name} --wait",
        )
    return InUseError(
        f"{_clause(found.silence)}. It holds the only copy of {shards}, which would be lost; nothing was changed.",
        details=details,
        hint=_way_back(found),
    )


def _clause(sentence: str) -> str:
    return sentence.rstrip(".")


def _start(address: NodeAddress) -> str:
    return f"If it is paused: {address.compose_command('unpause')}; otherwise: {address.compose_command('start')}"


def _way_back(found: Departure) -> str:
    way = f"{_start(found.address)}. Then: citus-cluster nodes drain {found.name} --wait"
    lost = any(table.only_copies for table in found.held)
    return f'{way}\nIf its data are lost for good, see "A worker that is lost" in docs/operations.md.' if lost else way


def called(address: NodeAddress) -> str:
    """Return the name of a worker for our commands: its service, or HOST:PORT."""
    return address.host if address.is_service else str(address)


def resolve_name(name: str, own: Mapping[str, NodeAddress], registry: Registry) -> NodeAddress:
    """Return the address of a worker by the name that a user gave: a service of this directory, HOST, or HOST:PORT.

    ``own`` maps the workers' services to addresses. Raises UsageError for a name that matches none, or several.
    """
    if name in own:
        return own[name]
    known = [*dict.fromkeys([*own.values(), *(node.address for node in registry.nodes)])]
    known += [address for address in sorted(registry.recorded or ()) if address not in known]
    fitting = [address for address in known if name in {str(address), f"{address.host}:{address.port}"}]
    fitting = fitting or [address for address in known if name in {address.host, f"[{address.host}]"}]
    coordinator = registry.coordinator
    if len(fitting) > 1 and coordinator:
        fitting = [address for address in fitting if address != coordinator.address]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"{name} matches several workers: {', '.join(map(str, fitting))}.",
            hint="Name the worker with its port: HOST:PORT, as citus-cluster status shows it.",
        )
    services = {address: service for service, address in own.items()}
    workers = [services.get(node.address, str(node.address)) for node in registry.nodes if not node.is_coordinator]
    known_words = f"the workers are {', '.join(workers)}" if workers else "there are no workers"
    meant = closest(name, workers)
    raise UsageError(
        f"There is no worker {name!r}: {known_words}.",
        hint=(f"Did you mean {meant}? " if meant else "")
        + "Name a worker by its service, or as citus-cluster status shows it: HOST or HOST:PORT.",
    )


def find_shard_targets(node: RegisteredNode | None, nodes: Iterable[RegisteredNode]) -> tuple[NodeAddress, ...]:
    """Return the active nodes, other than ``node``, that may hold shards."""
    return tuple(
        other.address
        for other in nodes
        if other != node and other.is_active and other.role == "primary" and other.should_have_shards
    )


def with_hint(error: CitusClusterError, hint: str) -> CitusClusterError:
    """Return the same error with another hint."""
    return type(error)(error.message, hint=hint, details=error.details)
