"""Queries to the servers of the PostgreSQL 14 pair, and commands in their containers.

The two files in the shared volume and the one in each container are those of config/pg14-start.sh.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.pg14_log import (
    ControlFile,
    LogTail,
    file_name,
    fork_lsn,
    history_name,
    parse_control_file,
    read_tail,
)
from citus_cluster.model.replication import (
    Room,
    ServerFacts,
    Slot,
    StandbyConnection,
    StartReport,
    parse_report,
    slot_name,
)
from citus_cluster.runtime.docker.engine import Container, Engine
from citus_cluster.runtime.postgres import Connection, bounded, translated

_ROLES = "/var/lib/citus-cluster"
_ROLE_FILE = f"{_ROLES}/primary"
_STATE_FILE = "/run/citus-cluster.state"
_DATA = "/var/lib/postgresql/data/pgdata"
_IN_CONTAINER_S = 15.0
_QUERY_TIMEOUT_S = 5.0
# It reads each file.
_SIZE_TIMEOUT_S = 60.0
# 128 MB: if more is missing, the message says that it is at least this much.
_MOST_LOG_FILES = 8

_FACTS = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery()
            THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver),
                          (SELECT timeline_id FROM pg_control_checkpoint()))
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
       (SELECT system_identifier::text FROM pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END::text,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8,
       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() = 'paused' ELSE false END,
       current_setting('synchronous_standby_names'),
       (SELECT count(*)::int FROM pg_stat_activity WHERE wait_event = 'SyncRep'),
       (SELECT extract(epoch FROM clock_timestamp() - min(state_change))::float8
        FROM pg_stat_activity WHERE wait_event = 'SyncRep')
"""
_STANDBY_CONNECTION = """
SELECT state, sync_state, replay_lsn::text, extract(epoch FROM replay_lag)::float8,
       greatest(0, extract(epoch FROM clock_timestamp() - reply_time))::float8
FROM pg_stat_replication WHERE application_name = %s
ORDER BY state = 'streaming' DESC, backend_start DESC LIMIT 1
"""
_SLOT = """
SELECT slot_name, active, wal_status,
       greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                        ELSE pg_current_wal_lsn() END, restart_lsn))::bigint
FROM pg_replication_slots WHERE slot_name = %s
"""


_SIZE = """
SELECT (SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database)::bigint
     + (SELECT coalesce(sum(size), 0) FROM pg_ls_waldir())::bigint
"""


def _asking(doing: str) -> AbstractAsyncContextManager[None]:
    return translated(doing, server="The PostgreSQL 14 server")


async def read_facts(conn: Connection, peer: str) -> ServerFacts:
    """Read a server's role and position; ``peer`` is the service of the other. Raises UnreachableError."""
    async with _asking("reading its replication state"), bounded(conn, _QUERY_TIMEOUT_S):
        row = await (await conn.execute(_FACTS)).fetchone()
        standby_connection = await (await conn.execute(_STANDBY_CONNECTION, [peer])).fetchone()
        slot = await (await conn.execute(_SLOT, [slot_name(peer)])).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"  # noqa: S101
    return ServerFacts(
        *(*row, StandbyConnection(*standby_connection) if standby_connection else None, Slot(*slot) if slot else None)
    )


async def data_bytes(conn: Connection) -> int:
    """Return the size of a server's databases and of its WAL. Raises UnreachableError."""
    async with _asking("asking for the size of its data"), bounded(conn, _SIZE_TIMEOUT_S):
        row = await (await conn.execute(_SIZE)).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"  # noqa: S101
    return int(row[0])


async def promote(conn: Connection, *, timeout_s: float) -> bool:
    """End a standby's recovery, which first replays all received WAL. Returns False if it took too long."""
    wait_s = max(1, int(timeout_s))
    async with _asking("promoting it"), bounded(conn, wait_s + _QUERY_TIMEOUT_S):
        cursor = await conn.execute("SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote(true, %s) END", [wait_s])
        row = await cursor.fetchone()
    return row is not None and row[0] is not False


def read_report(engine: Engine, container: Container) -> StartReport:
    """Read the report of the start script of a running container. Raises CitusClusterError."""
    script = 'echo "primary: $(head -n 1 "$1" 2>/dev/null)"; head -n 2 "$2" 2>/dev/null'
    return parse_report(_execute(engine, container, script, _ROLE_FILE, _STATE_FILE, may_fail=True))


def choose_primary(engine: Engine, container: Container, service: str) -> None:
    """Record the server that may accept writes, in a running container of either; durable when it returns.

    From then on no container starts as the other primary. A request to rebuild the chosen one is removed.
    """
    script = (
        'set -e; rm -f "$3/rebuild-$1"; printf "%s\\n" "$1" >"$2.new"; sync "$2.new"; mv -T "$2.new" "$2"; sync "$3"'
    )
    _execute(engine, container, script, service, _ROLE_FILE, _ROLES)


def ask_for_rebuild(engine: Engine, container: Container, service: str, keep_as: str | None) -> None:
    """Record, in a running container of either, that ``service`` copies the primary's data at its next start.

    Its own data are then renamed to ``keep_as`` in the same directory, or removed.
    """
    script = 'set -e; printf "%s" "$3" >"$2/rebuild-$1.new"; sync "$2/rebuild-$1.new"'
    script += '; mv -T "$2/rebuild-$1.new" "$2/rebuild-$1"; sync "$2"'
    _execute(engine, container, script, service, _ROLES, keep_as or "")


def rebuild_is_wanted(engine: Engine, container: Container, service: str) -> bool:
    return "yes" in _execute(engine, container, '[ ! -e "$2/rebuild-$1" ] || echo yes', service, _ROLES)


def read_room(engine: Engine, container: Container) -> Room:
    """Return how full the volume of a running container is. Raises CitusClusterError."""
    # Files are created and removed while du reads the data of a running server, and there may be no data.
    script = 'df -B1 --output=avail "${1%/*}" | tail -n 1; own=$(du -sB1 "$1" 2>/dev/null | cut -f 1); echo "${own:-0}"'
    free, own = _execute(engine, container, script, _DATA, timeout_s=_SIZE_TIMEOUT_S).split()
    return Room(int(free), int(own))


def is_standby(engine: Engine, container: Container) -> bool:
    """Return whether the data of a container, running or not, are a standby's."""
    return engine.read_file(container, f"{_DATA}/standby.signal") is not None


def read_control_file(engine: Engine, container: Container) -> ControlFile | None:
    """Return the control file of a container's data, running or not; None if there are no PostgreSQL 14 data."""
    content = engine.read_file(container, f"{_DATA}/global/pg_control")
    return parse_control_file(content) if content else None


def read_log_tail(engine: Engine, container: Container, timeline: int, start: int, had: int) -> LogTail:
    """Read the WAL of a container whose server does not run; like ``read_tail``. Takes about 0.3 s for each 16 MB.

    ``timeline`` is that of the last checkpoint, or a later one; the newest is read.
    """
    while engine.read_file(container, f"{_DATA}/pg_wal/{history_name(timeline + 1)}") is not None:
        timeline += 1

    def read(at: int) -> bytes | None:
        return engine.read_file(container, f"{_DATA}/pg_wal/{file_name(timeline, at)}")

    return read_tail(read, start, had, _MOST_LOG_FILES)


def read_fork(engine: Engine, container: Container, timeline: int, older: int) -> int | None:
    """Return the position at which ``timeline`` branched off the ``older`` one; None if it never did."""
    content = engine.read_file(container, f"{_DATA}/pg_wal/{history_name(timeline)}")
    return fork_lsn(content.decode(errors="replace"), older) if content else None


def last_seen_synchronous(engine: Engine, container: Container, service: str) -> float | None:
    """Return when the health check of ``service`` last found commits waiting for a standby, in seconds since 1970.

    The file is read in a running container of either.
    """
    script = 'stat -c %Y "$2/synchronous-$1"'
    said = _execute(engine, container, script, service, _ROLES, may_fail=True)
    return float(said) if said.isdigit() else None


def _execute(
    engine: Engine,
    container: Container,
    script: str,
    *arguments: str,
    may_fail: bool = False,
    timeout_s: float = _IN_CONTAINER_S,
) -> str:
    command: Sequence[str] = ["bash", "-c", script, "citus-cluster", *arguments]
    probe = engine.execute(container, command, timeout_s=timeout_s)
    if not probe.ok and not may_fail:
        raise CitusClusterError(
            f"A file in the volume of the pair could not be written in {container.name}: {probe.output}",
            hint=f"Check docker logs {container.name}, and whether the disk is full (df -h).",
        )
    return probe.output
