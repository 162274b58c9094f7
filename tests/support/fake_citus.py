"""A Citus cluster in memory that replaces functions of ``runtime.citus``: operations use it like a real one.

It contains the data of the coordinator's catalog, and of each server. It refuses a change outside the writers' lock,
so that each test detects an operation that does not take it.
"""

import importlib
import pkgutil
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from citus_cluster import operations
from citus_cluster.errors import LockedError, WorkerUnreachableError
from citus_cluster.model.citus.capacity import DiskSpace, NodeCapacity
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import Copying, Job, JobState, Task
from citus_cluster.model.citus.rebalance_plan import Move, RebalanceOptions
from citus_cluster.model.citus.registration import NodeIdentity, RegisteredNode, Registry
from citus_cluster.runtime.citus import (
    blockers,
    decoding,
    limits,
    lock,
    movers,
    nodes,
    probe,
    rebalance,
    removal,
    roles,
    server,
    tables,
    verify,
)
from citus_cluster.runtime.citus import slots as citus_slots
from citus_cluster.runtime.citus.removal import HeldPlacement
from citus_cluster.runtime.citus.tables import NodeAnswer, Placement, Presence, TableRow
from citus_cluster.runtime.citus.verify import RoundTrip
from citus_cluster.runtime.postgres import Connection

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
COORDINATOR = NodeAddress("citus-coordinator")
ONE, TWO, THREE = (NodeAddress(f"citus-worker{number}") for number in (1, 2, 3))

# A double replaces a name in every module that has it; a module that is imported later would keep the double.
for _module in pkgutil.walk_packages(operations.__path__, f"{operations.__name__}."):
    importlib.import_module(_module.name)


class FakeConnection:
    """The part of a connection to the coordinator that operations use."""

    def __init__(self) -> None:
        self.closed = False
        self.info = SimpleNamespace(host="127.0.0.1", port=5434, user="postgres", dbname="postgres")

    async def close(self) -> None:
        self.closed = True

    async def __aenter__(self) -> "FakeConnection":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


@dataclass
class Server:
    """A server that can be queried: ``silence`` says why it does not answer, None if it does."""

    identity: NodeIdentity
    silence: str | None = None
    reaches_coordinator: bool = True


def identity(number: int, **values: Any) -> NodeIdentity:
    """Return the identity of a new server."""
    return NodeIdentity(**{**_FRESH, "system_identifier": f"of server {number}", **values})


_FRESH: dict[str, Any] = {
    "postgres_version": "17.6",
    "citus_version": "13.2.0",
    "extension_version": "13.2-1",
    "in_recovery": False,
}


@dataclass
class FakeCitus:
    """The cluster. ``done`` has each change, in order; ``time_limits`` the time limits of changes of the node list."""

    conn: FakeConnection = field(default_factory=FakeConnection)
    nodes: list[RegisteredNode] = field(default_factory=list)
    recorded: set[NodeAddress] | None = field(default_factory=set)
    released: dict[NodeAddress, str] = field(default_factory=dict)
    servers: dict[NodeAddress, Server] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    time_limits: list[float] = field(default_factory=list)
    locked_by: str | None = None
    """The other session that holds the writers' lock."""
    lock_waits: list[float] = field(default_factory=list)
    is_locked: bool = False
    refusal: Exception | None = None
    """Why Citus refuses each change of the node list."""
    has_dblink: bool = True
    synced_after: int = 0
    """How many queries report that not all nodes have the node list yet."""
    credentials_failure: Exception | None = None
    limits_failure: Exception | None = None
    foreign_code: tuple[str, ...] = ()
    unconnected: list[tuple[NodeAddress, NodeAddress, bool | None]] = field(default_factory=list)
    before_lock: Callable[[], None] = lambda: None
    """The action of another session while this one waits for the lock."""

    # Tables
    tables: list[TableRow] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    missing: dict[int, set[int]] = field(default_factory=dict)
    """Shards that do not exist although the catalog places them there, by group."""
    prepared: dict[int, list[tuple[str, ...]]] = field(default_factory=dict)
    """Prepared transactions of each group for each query; the last value stays."""
    group_ids: dict[int, int] = field(default_factory=dict)
    """The group that a node reports, if that is not its own."""
    answers: dict[NodeAddress, Any] = field(default_factory=dict)
    lost_slots: dict[NodeAddress, tuple[str, ...]] = field(default_factory=dict)
    roles_of_nodes: dict[int, tuple[str, ...]] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    trip: Any = None
    left: tuple[str, ...] = ()
    cleanups: dict[int, int | Exception] = field(default_factory=dict)

    # Rebalances
    version: str = "13.2.0"
    functions: Collection[str] = (rebalance.PARALLEL_SIGNATURE,)
    moves: list[Move] = field(default_factory=list)
    plan_failure: Exception | None = None
    planned: list[tuple[RebalanceOptions, tuple[int, ...]]] = field(default_factory=list)
    jobs: dict[int, Job] = field(default_factory=dict)
    tasks: dict[int, list[Task]] = field(default_factory=dict)
    start_failure: Exception | None = None
    started: list[dict[str, Any]] = field(default_factory=list)
    capacities: dict[NodeAddress, NodeCapacity] = field(default_factory=dict)
    disks: dict[NodeAddress, DiskSpace] = field(default_factory=dict)
    unidentified: tuple[tuple[str, str], ...] = ()
    owners: tuple[Any, ...] = ()
    copying: tuple[Copying, ...] = ()
    copying_failure: Exception | None = None
    is_served: bool = True
    blocking: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.nodes:
            self.nodes = [RegisteredNode(1, 0, COORDINATOR, True, "primary", False)]
        self.servers.setdefault(COORDINATOR, Server(identity(0)))

    @classmethod
    def of(cls, *workers: NodeAddress, **values: Any) -> "FakeCitus":
        """Return a cluster with these registered workers, all of them healthy."""
        found = cls(**values)
        for worker in workers:
            found.register(worker)
            found.recorded = {*(found.recorded or ()), worker}
        return found

    @property
    def connection(self) -> Connection:
        return cast("Connection", self.conn)

    def offer(self, address: NodeAddress, **values: Any) -> Server:
        """Add a server that is not a node yet."""
        number = int(address.host.removeprefix("citus-worker") or 0) if address.is_service else 99
        return self.servers.setdefault(address, Server(identity(number, **values)))

    def register(self, address: NodeAddress, **values: Any) -> RegisteredNode:
        """Add a worker to the node list, as if it had been registered before."""
        self.offer(address)
        number = max(node.node_id for node in self.nodes) + 1
        facts: dict[str, Any] = {"is_active": True, "role": "primary", "should_have_shards": True, **values}
        node = RegisteredNode(number, facts.pop("group_id", number), address, **facts)
        self.nodes.append(node)
        return node

    def change(self, address: NodeAddress, /, **values: Any) -> None:
        self.nodes = [replace(node, **values) if node.address == address else node for node in self.nodes]

    def node(self, address: NodeAddress) -> RegisteredNode:
        return next(node for node in self.nodes if node.address == address)

    def place(self, table: str, shards: Mapping[int, Collection[NodeAddress]], type: str = "distributed") -> None:
        """Create a table with shards of 1000 bytes on these nodes."""
        row = TableRow(1000 + len(self.tables), table, type, "id", 1)
        self.tables.append(row)
        for shard_id, holders in shards.items():
            self.sizes[shard_id] = 1000
            for holder in holders:
                name = f"public.{table}_{shard_id}"
                self.placements.append(Placement(row.oid, shard_id, name, self.node(holder).group_id))

    def _log(self, what: str) -> None:
        if not self.is_locked:
            raise AssertionError(f"outside the writers' lock: {what}")
        self.done.append(what)

    # The node list

    async def read_registry(self, conn: Connection) -> Registry:
        recorded = None if self.recorded is None else frozenset(self.recorded)
        return Registry(tuple(sorted(self.nodes, key=lambda node: node.group_id)), recorded, dict(self.released))

    async def create_record(self, conn: Connection) -> None:
        self._log("make the record")
        self.recorded = self.recorded or set()

    def _record(self, worker: NodeAddress) -> None:
        assert self.recorded is not None, "there is no table of workers"
        self.recorded.add(worker)
        self.released.pop(worker, None)

    async def record_worker(self, conn: Connection, worker: NodeAddress) -> None:
        self._log(f"record {worker.host}")
        self._record(worker)

    async def set_coordinator_host(
        self, conn: Connection, coordinator: NodeAddress, *, holds_shards: bool | None
    ) -> None:
        self._log(f"name the coordinator {coordinator.host}")
        before = [node for node in self.nodes if node.is_coordinator]
        holds = (before[0].should_have_shards if before else False) if holds_shards is None else holds_shards
        others = [node for node in self.nodes if not node.is_coordinator]
        self.nodes = [RegisteredNode(1, 0, coordinator, True, "primary", holds), *others]

    async def move_coordinator(self, conn: Connection, node_id: int, coordinator: NodeAddress) -> None:
        self._log(f"move node {node_id} to {coordinator.host}")
        self.nodes = [replace(node, address=coordinator) if node.node_id == node_id else node for node in self.nodes]

    async def all_synced(self, conn: Connection) -> bool:
        self.synced_after -= 1
        return self.synced_after < 0

    async def add_worker(
        self, conn: Connection, worker: NodeAddress, *, unburden: NodeAddress | None, timeout_s: float
    ) -> None:
        self._refuse()
        self._log(f"add {worker.host}" + (f", and no shards for {unburden.host}" if unburden else ""))
        self.time_limits.append(timeout_s)
        if unburden:
            self.change(unburden, should_have_shards=False)
        self.register(worker)
        self._record(worker)

    async def activate_worker(self, conn: Connection, worker: NodeAddress, *, timeout_s: float) -> None:
        self._refuse()
        self._log(f"activate {worker.host}")
        self.time_limits.append(timeout_s)
        self.change(worker, is_active=True)
        self._record(worker)

    async def node_health(
        self, conn: Connection, timeout_s: float
    ) -> list[tuple[NodeAddress, NodeAddress, bool | None]]:
        self.time_limits.append(timeout_s)
        if self.refusal:
            raise self.refusal
        known = {(source, target) for source, target, _ in self.unconnected}
        pairs = [(a.address, b.address) for a in self.nodes for b in self.nodes]
        return [*((*pair, True) for pair in pairs if pair not in known), *self.unconnected]

    def _refuse(self) -> None:
        if self.refusal:
            raise self.refusal

    async def lacks_own_library(self, conn: Connection) -> None:
        return

    @asynccontextmanager
    async def writer_lock(self, conn: Connection, *, wait_s: float) -> AsyncIterator[None]:
        self.lock_waits.append(wait_s)
        assert not self.is_locked, "the lock is taken twice"
        self.before_lock()
        if self.locked_by:
            raise LockedError(f"Another run is working on this cluster: {self.locked_by}.", hint="Wait.")
        self.is_locked = True
        try:
            yield
        finally:
            self.is_locked = False

    # What servers answer

    def _ask(self, address: NodeAddress) -> Server:
        if not self.has_dblink:
            raise probe.ProbeUnavailableError
        server = self.servers.get(address)
        reason = "its name does not resolve" if server is None else server.silence
        if server is None or reason:
            raise WorkerUnreachableError(f"{address} does not answer the coordinator: {reason}.", hint="Look.")
        return server

    async def identity(self, conn: Connection, node: NodeAddress, *, registered: bool = False) -> NodeIdentity:
        return self._ask(node).identity

    async def own_identity(self, conn: Connection) -> NodeIdentity:
        return self.servers[COORDINATOR].identity

    async def reaches(self, conn: Connection, node: NodeAddress, other: NodeAddress) -> bool:
        return self._ask(node).reaches_coordinator

    async def coordinator_reaches(self, conn: Connection, node: NodeAddress) -> bool:
        server = self.servers.get(node)
        return server is not None and server.silence is None

    async def silence(self, conn: Connection, nodes: Iterable[RegisteredNode]) -> Mapping[NodeAddress, str]:
        found = {}
        for node in nodes:
            server = self.servers.get(node.address)
            if node.is_active and server and server.silence:
                found[node.address] = f"{node.address} does not answer the coordinator: {server.silence}."
        return found

    async def copy_role_passwords(self, conn: Connection, node: NodeAddress) -> int:
        if self.credentials_failure:
            raise self.credentials_failure
        self._log(f"credentials for {node.host}")
        return 1

    async def lift_on_new_worker(self, conn: Connection, worker: NodeAddress) -> None:
        if self.limits_failure:
            raise self.limits_failure
        self._log(f"no session limits on {worker.host}")

    async def foreign_code_of_reference_tables(self, conn: Connection) -> tuple[str, ...]:
        return self.foreign_code

    # Tables and their shards

    async def read_tables(self, conn: Connection) -> tuple[TableRow, ...]:
        return tuple(sorted(self.tables, key=lambda table: table.name))

    async def read_placements(self, conn: Connection, shard_ids: Sequence[int] | None = None) -> tuple[Placement, ...]:
        return tuple(p for p in self.placements if shard_ids is None or p.shard_id in shard_ids)

    async def presence(self, conn: Connection, node: RegisteredNode, placements: Sequence[Placement]) -> Presence:
        self._ask(node.address)
        missing = self.missing.get(node.group_id, set())
        prepared = self.prepared.get(node.group_id, [()])
        return Presence(
            self.group_ids.get(node.group_id, node.group_id),
            tuple(p.shard_id for p in placements if p.shard_id in missing),
            prepared.pop(0) if len(prepared) > 1 else prepared[0],
        )

    async def ask_node(
        self, conn: Connection, node: RegisteredNode, placements: Sequence[Placement], *, timeout_s: float = 4
    ) -> NodeAnswer:
        server = self._ask(node.address)
        presence = await self.presence(conn, node, placements)
        facts = {
            "postgres_version": server.identity.postgres_version,
            "citus_version": server.identity.citus_version,
            "sizes": {p.shard_id: self.sizes.get(p.shard_id, 0) for p in placements},
            "presence": presence,
        }
        return NodeAnswer(**{**facts, **self.answers.get(node.address, {})})

    async def shard_sizes(
        self, conn: Connection, nodes: Sequence[RegisteredNode]
    ) -> Mapping[NodeAddress, Mapping[int, int]]:
        moving = {table.oid for table in self.tables if table.moves}
        answering = [node for node in nodes if self.servers[node.address].silence is None]
        return {
            node.address: {
                p.shard_id: self.sizes[p.shard_id]
                for p in self.placements
                if p.group_id == node.group_id and p.table_oid in moving
            }
            for node in answering
        }

    async def node_roles(self, conn: Connection, node: RegisteredNode) -> Any:
        return SimpleNamespace(roles=self.roles_of_nodes.get(node.group_id, self.roles))

    async def read_roles(self, conn: Connection) -> Mapping[str, object]:
        return dict.fromkeys(self.roles)

    async def lost_slots_of(self, conn: Connection, node: RegisteredNode) -> tuple[str, ...]:
        self._ask(node.address)
        return self.lost_slots.get(node.address, ())

    async def active_workers(self, conn: Connection) -> Sequence[tuple[str, int]]:
        found = [node.address for node in self.nodes if node.is_active and not node.is_coordinator]
        return [(address.host, address.port) for address in found]

    async def write_and_read(
        self, conn: Connection, shard_count: int, *, statement_timeout_s: float, lock_timeout_s: float
    ) -> RoundTrip:
        if isinstance(self.trip, Exception):
            raise self.trip
        able = [node for node in self.nodes if node.is_active and node.role == "primary"]
        holders = [node.address for node in able if node.should_have_shards]
        shards = dict(enumerate(holders or [COORDINATOR], start=1))
        assert len(shards) == shard_count
        whole = RoundTrip(shards, frozenset(shards), 64, 64, 7, 7)
        return replace(whole, **(self.trip or {}))

    async def leftovers(self, conn: Connection, *, timeout_s: float) -> tuple[str, ...]:
        return self.left

    # Workers that leave

    async def held_placements(self, conn: Connection, group_id: int) -> tuple[HeldPlacement, ...]:
        names = {table.oid: table for table in self.tables}
        active = {node.group_id for node in self.nodes if node.is_active}
        return tuple(
            HeldPlacement(
                one,
                names[one.table_oid].name,
                any(
                    other.shard_id == one.shard_id and other.group_id != group_id and other.group_id in active
                    for other in self.placements
                ),
            )
            for one in self.placements
            if one.group_id == group_id and names[one.table_oid].type != "reference"
        )

    def _node_names(self, task: Task) -> set[str]:
        return {name for name in (task.source, task.target) if name}

    def _name_of(self, node_id: int) -> str:
        return next(str(node.address) for node in self.nodes if node.node_id == node_id)

    async def moves_off(self, conn: Connection, job_id: int, node_id: int) -> bool:
        return any(task.source == self._name_of(node_id) for task in self.tasks.get(job_id, ()))

    async def unfinished_sources(self, conn: Connection, job_id: int) -> frozenset[int]:
        left = {task.source for task in self.tasks.get(job_id, ()) if not task.is_done}
        return frozenset(node.node_id for node in self.nodes if str(node.address) in left)

    async def is_in_work(self, conn: Connection, job_id: int, node_id: int) -> bool:
        left = [task for task in self.tasks.get(job_id, ()) if task.state not in {"done", "cancelled", "error"}]
        return any(self._name_of(node_id) in self._node_names(task) for task in left)

    async def set_should_have_shards(self, conn: Connection, workers: Iterable[NodeAddress], value: bool) -> None:
        for worker in workers:
            self._log(f"{worker.host} {'may hold' if value else 'gets no'} shards")
            self.change(worker, should_have_shards=value)

    async def clean_up(self, conn: Connection, group_id: int) -> int:
        found = self.cleanups.get(group_id, 0)
        if isinstance(found, Exception):
            raise found
        return found

    async def remove_worker(
        self, conn: Connection, node: RegisteredNode, *, answers: bool, identifier: str | None
    ) -> None:
        self._refuse()
        self._log(f"remove {node.address.host}" + ("" if answers else ", which does not answer"))
        self.nodes = [one for one in self.nodes if one.address != node.address]
        self._depart(node.address)

    async def record_departure(self, conn: Connection, worker: NodeAddress, *, identifier: str | None) -> None:
        self._log(f"record that {worker.host} left ({identifier})")
        self._depart(worker)

    def _depart(self, worker: NodeAddress) -> None:
        assert self.recorded is not None, "there is no table of workers"
        self.recorded.add(worker)

    async def release_name(self, conn: Connection, worker: NodeAddress, *, is_gone: bool) -> None:
        self._log(f"release the name {worker.host}" + (", whose server is gone" if is_gone else ""))

    # Rebalances

    async def has_function(self, conn: Connection, signature: str) -> bool:
        return signature in self.functions

    async def citus_version(self, conn: Connection) -> str:
        return self.version

    async def plan_moves(
        self, conn: Connection, options: RebalanceOptions, sizes: Mapping[int, int], *, without: Sequence[int] = ()
    ) -> tuple[Move, ...]:
        if self.plan_failure:
            raise self.plan_failure
        self.planned.append((options, tuple(without)))
        return tuple(self.moves)

    async def running_job_id(self, conn: Connection) -> int | None:
        running = [job.job_id for job in self.jobs.values() if not job.state.is_final]
        return max(running, default=None)

    async def start_job(
        self, conn: Connection, options: RebalanceOptions, *, held: Collection[int], unburden: Sequence[NodeAddress]
    ) -> int | None:
        if self.start_failure:
            raise self.start_failure
        self.started.append({"options": options, "held": tuple(held), "unburden": tuple(unburden)})
        for worker in unburden:
            self.change(worker, should_have_shards=False)
        if not self.moves:
            return None
        job_id = max(self.jobs, default=6) + 1
        self.run_job(job_id)
        return job_id

    def run_job(self, job_id: int, state: JobState = JobState.RUNNING, *task_states: str) -> None:
        """Create a job with one task for each of the moves."""
        self.jobs[job_id] = Job(job_id, state, NOON, None, NOON)
        states = task_states or ("running",) * len(self.moves)
        self.tasks[job_id] = [
            Task(
                task_id,
                task_state,
                f"SELECT citus_move_shard_placement({move.shard_id}, 2, 3, 'auto')",
                process_id=4000 + task_id if task_state == "running" else None,
                target=str(move.target),
                source=str(move.source),
            )
            for task_id, (task_state, move) in enumerate(zip(states, self.moves, strict=True), start=1)
        ]

    def end_job(self, job_id: int, state: JobState = JobState.FINISHED, task_state: str = "done") -> None:
        self.jobs[job_id] = replace(self.jobs[job_id], state=state, finished_at=NOON)
        self.tasks[job_id] = [replace(task, state=task_state) for task in self.tasks[job_id]]

    async def stop_job(self, conn: Connection) -> None:
        job_id = await self.running_job_id(conn)
        assert job_id is not None
        self.end_job(job_id, JobState.CANCELLED, "cancelled")

    async def last_job(self, conn: Connection, job_id: int | None = None) -> Job | None:
        return self.jobs.get(max(self.jobs, default=0) if job_id is None else job_id)

    async def read_tasks(self, conn: Connection, job_id: int) -> tuple[Task, ...]:
        return tuple(self.tasks.get(job_id, ()))

    async def queue_is_served(self, conn: Connection) -> bool:
        return self.is_served

    async def read_copying(self, conn: Connection, coordinator: NodeAddress) -> tuple[Copying, ...]:
        if self.copying_failure:
            raise self.copying_failure
        return self.copying

    async def shard_groups(
        self, conn: Connection, shard_ids: Sequence[int]
    ) -> Mapping[int, tuple[str, tuple[int, ...]]]:
        names = {table.oid: table.name for table in self.tables}
        found = {p.shard_id: names[p.table_oid] for p in self.placements}
        return {shard_id: (found[shard_id], (shard_id,)) for shard_id in shard_ids if shard_id in found}

    async def capacity(self, conn: Connection, node: RegisteredNode) -> NodeCapacity:
        self._ask(node.address)
        return self.capacities.get(node.address) or NodeCapacity(
            str(node.address), "logical", 100, 0, 100, 0, 100, 0, 100
        )

    async def disk_space(self, conn: Connection, node: RegisteredNode) -> DiskSpace:
        self._ask(node.address)
        return self.disks.get(node.address) or DiskSpace(node.address, 10**12, 0)

    async def tables_without_identity(self, conn: Connection, shard_ids: Sequence[int]) -> tuple[tuple[str, str], ...]:
        return self.unidentified if shard_ids else ()

    async def read_owners(self, conn: Connection, shard_ids: Sequence[int]) -> tuple[Any, ...]:
        return self.owners

    async def read_foreign_code(self, conn: Connection, shard_ids: Sequence[int]) -> tuple[str, ...]:
        return self.foreign_code if shard_ids else ()

    async def read_blockers(
        self, conn: Connection, nodes: Sequence[RegisteredNode], processes: Collection[int]
    ) -> tuple[Any, ...]:
        return self.blocking if processes else ()


_DOORS: Sequence[tuple[Any, Mapping[str, str]]] = (
    (
        nodes,
        {
            name: name
            for name in (
                "read_registry",
                "create_record",
                "record_worker",
                "set_coordinator_host",
                "move_coordinator",
                "all_synced",
                "add_worker",
                "activate_worker",
                "node_health",
            )
        },
    ),
    (lock, {"writer_lock": "writer_lock"}),
    (decoding, {"lacks_own_library": "lacks_own_library"}),
    (
        probe,
        {
            name: name
            for name in ("identity", "own_identity", "reaches", "coordinator_reaches", "silence", "copy_role_passwords")
        },
    ),
    (limits, {"lift_on_new_worker": "lift_on_new_worker"}),
    (
        movers,
        {
            "foreign_code_of_reference_tables": "foreign_code_of_reference_tables",
            "foreign_code": "read_foreign_code",
            "owners": "read_owners",
        },
    ),
    (tables, {name: name for name in ("read_tables", "read_placements", "presence", "ask_node", "shard_sizes")}),
    (roles, {"node_roles": "node_roles", "read_roles": "read_roles"}),
    (citus_slots, {"lost_slots": "lost_slots_of"}),
    (server, {name: name for name in ("active_workers", "has_function", "citus_version")}),
    (verify, {"write_and_read": "write_and_read", "leftovers": "leftovers"}),
    (
        removal,
        {
            name: name
            for name in (
                "held_placements",
                "moves_off",
                "unfinished_sources",
                "is_in_work",
                "set_should_have_shards",
                "clean_up",
                "remove_worker",
                "record_departure",
                "release_name",
            )
        },
    ),
    (
        rebalance,
        {
            "plan_moves": "plan_moves",
            "running_job_id": "running_job_id",
            "start": "start_job",
            "stop": "stop_job",
            "last_job": "last_job",
            "tasks": "read_tasks",
            "queue_is_served": "queue_is_served",
            "copying": "read_copying",
            "shard_groups": "shard_groups",
            "capacity": "capacity",
            "disk_space": "disk_space",
            "tables_without_identity": "tables_without_identity",
        },
    ),
    (blockers, {"blockers": "read_blockers"}),
)


def places_of(original: object) -> list[tuple[Any, str]]:
    """Find each of our modules that contains a function, and its name there."""
    ours = [module for name, module in sys.modules.items() if name.startswith(("citus_cluster", "admin_api"))]
    return [(module, key) for module in ours for key, value in list(vars(module).items()) if value is original]


def _find_doors() -> Sequence[tuple[Any, str, str]]:
    """Return modules, names in them, and the methods that replace these."""
    return [
        (place, name, method)
        for module, doors in _DOORS
        for original, method in doors.items()
        for place, name in places_of(getattr(module, original))
    ]


_PLACES = _find_doors()


def in_place(monkeypatch: pytest.MonkeyPatch, cluster: FakeCitus) -> FakeCitus:
    """Make the operations use this cluster."""
    for module, name, method in _PLACES:
        monkeypatch.setattr(module, name, getattr(cluster, method))
    return cluster


def server_error(kind: type[psycopg.Error], message: str) -> psycopg.Error:
    """Return an error as a server sends it."""
    return kind(message)
