"""The PostgreSQL 14 pair in memory, which replaces functions of ``runtime.pg14``: two servers and their data.

A position in the WAL counts transactions, so the difference between two servers is a number.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fake_citus
import fake_engine
import pytest
from fake_engine import Host

from citus_cluster.errors import UnreachableError
from citus_cluster.model.pg14_log import ControlFile, LogTail
from citus_cluster.model.replication import (
    Phase,
    Room,
    ServerFacts,
    Slot,
    StandbyConnection,
    StartReport,
)
from citus_cluster.runtime import pg14

PRIMARY, REPLICA = "pg14-primary", "pg14-replica"
_BASE = 0x5000060
_TRANSACTION_BYTES = 100


@dataclass
class Data:
    """The content of one server's volume. ``phase`` is the report of its container while no server runs in it."""

    is_standby: bool
    transactions: int = 10
    identifier: str = "7300000000000000000"
    timeline: int = 1
    is_clean: bool = True
    is_readable: bool = True
    phase: Phase | None = None
    replay_paused: bool = False

    @property
    def lsn(self) -> int:
        return _BASE + self.transactions * _TRANSACTION_BYTES


@dataclass
class FakePair:
    host: Host
    data: dict[str, Data] = field(default_factory=lambda: {PRIMARY: Data(False), REPLICA: Data(True)})
    chosen: str = PRIMARY
    streams: bool = True
    synchronous: str = ""
    seen_synchronous_at: float | None = None
    fork: int | None = None
    wanted: dict[str, str | None] = field(default_factory=dict)
    """Servers that are to get a copy of the primary's data, and the new name of their old data."""
    done: list[str] = field(default_factory=list)
    room: Room = field(default_factory=lambda: Room(10**9, 10**6))
    size_bytes: int = 10**6
    choice_failure: Exception | None = None

    def other(self, service: str) -> str:
        return REPLICA if service == PRIMARY else PRIMARY

    def runs(self, service: str) -> bool:
        there = any(one.service == service and one.state == "running" for one in self.host.engine.containers)
        return there and self.data[service].phase is None

    def crash(self, service: str) -> None:
        """Kill a server: its files are complete, but it was not shut down."""
        self.host.engine.change(service, state="exited", exit_code=137, finished_at="2026-01-01T12:00:00+00:00")
        self.data[service].is_clean = False

    def stop(self, service: str) -> None:
        self.host.engine.change(service, state="exited", finished_at="2026-01-01T12:00:00+00:00")

    async def read_facts(self, conn: Any, peer: str) -> ServerFacts:
        own, other = self.data[conn.service], self.data[peer]
        if own.phase:
            raise UnreachableError("Cannot connect: there is no server in the container.")
        lsn = f"0/{own.lsn:X}"
        follows = self.streams and not own.is_standby and other.is_standby and self.runs(peer)
        return ServerFacts(
            in_recovery=own.is_standby,
            timeline=own.timeline,
            system_identifier=own.identifier,
            lsn=lsn,
            received_lsn=lsn if own.is_standby else None,
            since_replay_s=0.0,
            replay_paused=own.replay_paused,
            synchronous_standby_names=self.synchronous,
            waiting_sessions=0,
            longest_wait_s=None,
            standby_connection=StandbyConnection("streaming", "async", f"0/{other.lsn:X}", None, 0.1)
            if follows
            else None,
            slot=None if own.is_standby else Slot("slot", follows, "reserved", 0),
        )

    async def promote(self, conn: Any, *, timeout_s: float) -> bool:
        own = self.data[conn.service]
        own.is_standby, own.timeline = False, own.timeline + 1
        self.done.append(f"promote {conn.service}")
        return True

    async def data_bytes(self, conn: Any) -> int:
        return self.size_bytes

    def read_report(self, engine: Any, container: Any) -> StartReport:
        phase = self.data[container.service].phase
        return StartReport(self.chosen, phase, "waits for a decision" if phase else None)

    def choose_primary(self, engine: Any, container: Any, service: str) -> None:
        if self.choice_failure:
            raise self.choice_failure
        self.done.append(f"choose {service}")
        self.chosen = service
        self.wanted.pop(service, None)
        if self.data[service].phase is Phase.FENCED:
            self.data[service].phase = None

    def ask_for_rebuild(self, engine: Any, container: Any, service: str, keep_as: str | None) -> None:
        self.done.append(f"rebuild {service}")
        self.wanted[service] = keep_as

    def rebuild_is_wanted(self, engine: Any, container: Any, service: str) -> bool:
        return service in self.wanted

    def read_room(self, engine: Any, container: Any) -> Room:
        return self.room

    def is_standby(self, engine: Any, container: Any) -> bool:
        return self.data[container.service].is_standby

    def read_control_file(self, engine: Any, container: Any) -> ControlFile | None:
        own = self.data[container.service]
        if not own.is_readable:
            return None
        return ControlFile(own.identifier, own.is_clean, own.lsn, own.lsn, own.timeline, 100)

    def read_log_tail(self, engine: Any, container: Any, timeline: int, start: int, had: int) -> LogTail:
        own = self.data[container.service]
        return LogTail(own.lsn, max(0, (own.lsn - start) // _TRANSACTION_BYTES), True)

    def read_fork(self, engine: Any, container: Any, timeline: int, older: int) -> int | None:
        return self.fork

    def last_seen_synchronous(self, engine: Any, container: Any, service: str) -> float | None:
        return self.seen_synchronous_at


_NAMES = (
    "read_facts",
    "promote",
    "data_bytes",
    "read_report",
    "choose_primary",
    "ask_for_rebuild",
    "rebuild_is_wanted",
    "read_room",
    "is_standby",
    "read_control_file",
    "read_log_tail",
    "read_fork",
    "last_seen_synchronous",
)
_PLACES = [(place, key, name) for name in _NAMES for place, key in fake_citus.places_of(getattr(pg14, name))]


def in_place(monkeypatch: pytest.MonkeyPatch, root: Path) -> FakePair:
    """Yield the running pair of the directory ``root``."""
    pair = FakePair(fake_engine.in_place(monkeypatch, root))
    pair.host.run()
    for place, key, name in _PLACES:
        monkeypatch.setattr(place, key, getattr(pair, name))

    whole = pair.host.engine.restart

    def restart(container: Any, timeout_s: int = 120) -> None:
        whole(container, timeout_s)
        pair.data[container.service].replay_paused = False
        if container.service in pair.wanted:
            source = pair.data[pair.other(container.service)]
            pair.data[container.service] = Data(True, source.transactions, timeline=source.timeline)
            pair.wanted.pop(container.service)

    monkeypatch.setattr(pair.host.engine, "restart", restart)
    return pair
