"""Printing the status of the PostgreSQL 14 pair, and the consequences of a change of its roles."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from citus_cluster.console.screen import err, escape, out, pasteable, table
from citus_cluster.model.replication import Lag, PairStatus, SeenServer
from citus_cluster.model.units import size
from citus_cluster.operations.pair.promotion import Promotion
from citus_cluster.operations.pair.rebuild import Rebuild


def print_status(found: PairStatus, ports: Mapping[str, int]) -> None:
    """Print both servers, the state of replication, and every problem."""
    rows = [_server_row(server, ports) for server in found.servers]
    columns = ("server", "role", "port", "container", "timeline", "position")
    out.print(table("PostgreSQL 14 pair", columns, rows))
    standby_connection, slot = found.standby_connection, found.slot
    wanted = "sync" if found.synchronous else "async"
    state = (
        f"{standby_connection.state}, {standby_connection.sync_state}" if standby_connection else "no replica follows"
    )
    answered = (
        f"; last answer {standby_connection.reply_age_s:.0f} s ago"
        if standby_connection and standby_connection.late and found.lag.bytes
        else ""
    )
    out.print(f"Replication: {escape(state)} (wanted: {wanted}); {escape(lag_line(found.lag))}{answered}")
    if slot:
        kept = "no WAL" if slot.kept_bytes is None else f"{size(slot.kept_bytes)} of WAL"
        active = "active" if slot.active else "not active"
        out.print(f"Slot {escape(slot.name)}: {active}, {escape(slot.wal_status or 'never used')}; keeps {kept}")
    for problem in found.problems:
        out.print(f"[yellow]![/] {escape(problem)}")


def _server_row(server: SeenServer, ports: Mapping[str, int]) -> Sequence[object]:
    facts = server.facts
    where = (facts.timeline, facts.lsn) if facts else ("-", "-")
    return (server.service, server.role, ports[server.service], server.container_state or "?", *where)


def lag_line(lag: Lag) -> str:
    if lag.bytes is None and lag.seconds is None:
        return "the lag is unknown"
    behind = "an unknown number of bytes" if lag.bytes is None else f"{lag.bytes:,} bytes"
    age = ", for an unknown time" if lag.seconds is None else f", {lag.seconds:.3f} s"
    return f"{behind} behind{age}"


def print_lag(found: PairStatus) -> None:
    """Print how far the replica is behind, in one line."""
    name = found.replica.service if found.replica else "the replica"
    out.print(escape(f"{name}: {lag_line(found.lag)}"))


def print_promotion(done: Promotion, root: Path) -> None:
    """Print where to write from now on, and what to run next."""
    if done.already:
        out.print(f"Nothing to do: {done.target} is already the primary (port {done.port}).")
        return
    out.print(f"[bold]{done.target} is now the primary.[/] Write to port {done.port}: {escape(done.connection.dsn())}")
    if done.synchronous:
        out.print("Its commits wait until it has a replica, because replication is sync.")
    command = escape(pasteable("citus-cluster pg14 rebuild-replica", root))
    out.print(f"Next:\n  {command}   # makes {done.old} its replica")


def print_rebuild(done: Rebuild, found: PairStatus) -> None:
    """Print the state of the new replica, and where its old data are."""
    out.print(escape(f"{done.target} is a replica of {done.primary}: {found.summary}."))
    if done.keep_as:
        out.print(
            f"Its old data are kept in its volume as {escape(done.keep_as)}. To read or remove them, see "
            "docs/replication.md."
        )


def print_consequences(lines: Sequence[str]) -> None:
    for line in lines:
        err.print(f"  - {escape(line)}")
