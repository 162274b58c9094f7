"""A coordinator in memory that replaces the functions with which the admin API accesses the real one."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from psycopg.pq import TransactionStatus

from admin_api import app as app_module
from admin_api import coordinator as coordinator_module
from admin_api import reconciler as reconciler_module
from admin_api.reader import Reader
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.component import Secret
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.disks import Disk
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect

ADDRESS = NodeAddress("coordinator.in-memory", 6543)
"""The address of the coordinator in memory; connections to other addresses use the network."""


class FakeConnection:
    """The part of a connection that the API uses: whether it is open, its state, and the server's own messages."""

    def __init__(self) -> None:
        self.closed = False
        self.pgconn = SimpleNamespace(transaction_status=TransactionStatus.IDLE)
        self.statements: list[str] = []
        self.failure: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._line, self.server = socket.socketpair()

    def fileno(self) -> int:
        return self._line.fileno()

    async def execute(self, statement: str) -> None:
        await self.may_answer.wait()
        if self.failure:
            raise self.failure
        self.statements.append(statement)

    async def close(self) -> None:
        self.closed = True
        self._line.close()
        self.server.close()

    async def __aenter__(self) -> "FakeConnection":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


@dataclass
class FakeCoordinator:
    """Opens connections unless it has a ``refusal``, and answers the operations according to its fields."""

    refusal: Exception | None = None
    dialled: list[tuple[ConnectionInfo, float, str]] = field(default_factory=list)
    connections: list[FakeConnection] = field(default_factory=list)
    registered: dict[NodeAddress, NodeResult] = field(default_factory=dict)
    asked_for: list[tuple[NodeAddress, ...]] = field(default_factory=list)
    asked_with: list[Mapping[str, Any]] = field(default_factory=list)
    nodes: tuple[RegisteredNode, ...] = ()
    troubles: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    comparisons: int = 0
    disks: tuple[Disk, ...] = ()
    measured: list[int] = field(default_factory=list)
    defect: Exception | None = None
    disk_failure: Exception | None = None
    prepared: list[tuple[tuple[str, ...], tuple[str, ...], float]] = field(default_factory=list)
    """The components, their passwords, and the time limit for the lock of each call."""
    unprepared: CitusClusterError | None = None

    async def connect(self, info: ConnectionInfo, *, timeout_s: float, application_name: str) -> Connection:
        if info.host != ADDRESS.host:
            # An API that other tests share continues to run.
            return await connect(info, timeout_s=timeout_s, application_name=application_name)
        self.dialled.append((info, timeout_s, application_name))
        if self.refusal:
            raise self.refusal
        self.connections.append(FakeConnection())
        return cast("Connection", self.connections[-1])

    async def reconcile(
        self,
        connection: Connection,
        coordinator: NodeAddress,
        desired: tuple[NodeAddress, ...],
        emit: object,
        **more: Any,
    ) -> list[NodeResult]:
        self.asked_for.append(tuple(desired))
        self.asked_with.append({"coordinator": coordinator, **more})
        if self.defect:
            raise self.defect
        return [self.registered.get(worker, NodeResult(worker, Outcome.ALREADY)) for worker in desired]

    async def prepare(
        self,
        connection: Connection,
        components: Sequence[ComponentName],
        secret_of: Callable[[Secret], str],
        emit: Emit,
        *,
        wait_for_lock_s: float,
    ) -> Mapping[ComponentName, CitusClusterError]:
        try:
            secrets = [COMPONENTS[component].password for component in components]
            passwords = tuple(secret_of(secret) for secret in secrets if secret)
        except CitusClusterError as error:
            return dict.fromkeys(components, error)
        self.prepared.append((tuple(components), passwords, wait_for_lock_s))
        if self.unprepared:
            return dict.fromkeys(components, self.unprepared)
        if components and len(self.prepared) == 1:
            emit(Event("prepare", EventKind.DONE, "the coordinator has what they need"))
        return {}

    async def prepare_reader(self, *_: object, **__: object) -> None:
        return

    async def let_decode(self, connection: Connection, emit: Emit, *, wait_for_lock_s: float) -> bool:
        return False

    async def look(self, cluster: object) -> None:
        """Return no inventory, as if it took too long to read."""

    async def read_registry(self, connection: Connection) -> SimpleNamespace:
        return SimpleNamespace(nodes=self.nodes)

    async def read_troubles(self, connection: Connection, nodes: object) -> tuple[str, ...]:
        return self.troubles

    async def find_losses(self, connection: Connection, nodes: object) -> tuple[str, ...]:
        self.comparisons += 1
        return self.losses

    async def read_disks(self, connection: Connection, *, measured_bytes: int) -> tuple[Disk, ...]:
        self.measured.append(measured_bytes)
        if self.disk_failure:
            raise self.disk_failure
        return self.disks


@contextmanager
def in_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCoordinator]:
    """Replace the functions in the API's modules with those of a coordinator in memory."""
    fake = FakeCoordinator()
    monkeypatch.setattr(coordinator_module, "connect", fake.connect)
    for name, answer in (
        ("connect", fake.connect),
        ("reconcile", fake.reconcile),
        ("prepare_coordinator", fake.prepare),
        ("let_citus_decode", fake.let_decode),
        ("read_registry", fake.read_registry),
        ("troubles", fake.read_troubles),
        ("find_losses", fake.find_losses),
        ("read_disks", fake.read_disks),
    ):
        monkeypatch.setattr(reconciler_module, name, answer)
    monkeypatch.setattr(app_module, "look", fake.look)
    monkeypatch.setattr(Reader, "prepare", fake.prepare_reader)
    try:
        yield fake
    finally:
        for connection in fake.connections:
            asyncio.run(connection.close())


class Clock:
    """A monotonic clock that stands still until a test moves it; it replaces the module ``time``."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s
