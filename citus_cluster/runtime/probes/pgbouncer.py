"""The status of PgBouncer, from its admin console, which uses PostgreSQL's protocol and accepts only SHOW here."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import psycopg

from citus_cluster.errors import AuthenticationError, UnreachableError
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.pooling import AUTH_DATABASE, CONSOLE_DATABASE, POOLER_ROLE
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect, describe
from citus_cluster.runtime.probes import Doubt

_SLOW_S = 5.0
"""After this time, PgBouncer itself tells a client that it is still waiting."""

Rows = Sequence[Mapping[str, Any]]


class PgBouncerProbe:
    """The server. It proves that it knows the password, so the listener is not checked."""

    def __init__(self, target: Target, password: str, doubt: Doubt) -> None:
        (self._address,) = target.addresses.values()
        self._info = ConnectionInfo(self._address.host, self._address.port, POOLER_ROLE, CONSOLE_DATABASE, password)
        self._conn: Connection | None = None

    async def ask(self, timeout_s: float) -> CompanionStatus:
        """Read and judge the status. Never raises because the server is down, and always ends in time."""
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._ask(timeout_s)
                except psycopg.OperationalError:
                    # The kept connection may be to a PgBouncer that has been restarted since.
                    await self.close()
                    return await self._ask(timeout_s)
        except AuthenticationError as error:
            return _down(f"{self._address} refuses the password of role {POOLER_ROLE}: {error.message}")
        except TimeoutError:
            await self.close()
            return _down(f"{self._address} did not answer within {timeout_s:g} s")
        except UnreachableError as error:
            return _down(error.message)
        except psycopg.Error as error:
            await self.close()
            return _down(f"{self._address} does not answer: {describe(error)}")

    async def close(self) -> None:
        if self._conn is not None:
            conn, self._conn = self._conn, None
            await conn.close()

    async def _ask(self, timeout_s: float) -> CompanionStatus:
        if self._conn is None:
            self._conn = await connect(self._info, timeout_s=timeout_s)
        return judge(
            version=(await self._show("SHOW VERSION"))[0],
            pools=await self._show("SHOW POOLS"),
            databases=await self._show("SHOW DATABASES"),
            stats=await self._show("SHOW STATS"),
        )

    async def _show(self, command: LiteralString) -> Rows:
        assert self._conn is not None, "it is opened before it is asked"  # noqa: S101
        # The console supports neither parameters nor prepared statements nor transactions.
        cursor = await self._conn.execute(command, prepare=False)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


def judge(*, version: Mapping[str, Any], pools: Rows, databases: Rows, stats: Rows) -> CompanionStatus:
    """Judge the output of the console. A pool belongs to one role in one database."""
    of_clients = [row for row in pools if row["database"] not in {AUTH_DATABASE, CONSOLE_DATABASE}]
    waits = [_wait_s(row) for row in pools if row["database"] != CONSOLE_DATABASE]
    served = [row for row in databases if row["name"] not in {AUTH_DATABASE, CONSOLE_DATABASE}]
    traffic = [row for row in stats if row["database"] in {row["name"] for row in served}]
    figures: dict[str, object] = {
        "version": str(version["version"]).removeprefix("PgBouncer "),
        "clients": sum(int(row["current_client_connections"]) for row in served),
        "max_clients": sum(int(row["max_client_connections"]) for row in served),
        "waiting_clients": sum(_waiting(row) for row in pools if row["database"] != CONSOLE_DATABASE),
        "longest_wait_s": max(waits, default=0.0),
        "server_connections": sum(int(row["current_connections"]) for row in served),
        "max_server_connections": sum(int(row["max_connections"]) for row in served),
        "active_server_connections": sum(int(row["sv_active"]) for row in of_clients),
        "transactions_per_s": sum(int(row["avg_xact_count"]) for row in traffic),
        "average_wait_ms": round(max((int(row["avg_wait_time"]) for row in traffic), default=0) / 1000, 1),
        "pools": [
            {
                "role": str(row["user"]),
                "database": str(row["database"]),
                "clients": int(row["cl_active"]) + _waiting(row),
                "waiting_clients": _waiting(row),
                "longest_wait_s": _wait_s(row),
                "active_server_connections": int(row["sv_active"]),
                "idle_server_connections": int(row["sv_idle"]) + int(row["sv_used"]) + int(row["sv_tested"]),
            }
            for row in of_clients
            # PgBouncer keeps the pool of a role forever, even if the role could not log in.
            if row["user"] != POOLER_ROLE
        ],
    }
    reason = "; ".join(_problems(figures)) or None
    condition = Condition.DEGRADED if reason else Condition.OK
    return CompanionStatus(ComponentName.PGBOUNCER, condition, reason, figures, _summary(figures))


def _problems(figures: Mapping[str, Any]) -> list[str]:
    found = []
    if figures["clients"] >= figures["max_clients"]:
        found.append(
            f"{figures['max_clients']} clients are connected, and PgBouncer accepts no more: raise "
            "pgbouncer.max_clients in cluster.yaml"
        )
    if figures["longest_wait_s"] >= _SLOW_S:
        waiting, wait_s = figures["waiting_clients"], figures["longest_wait_s"]
        found.append(
            f"{waiting} {'client waits' if waiting == 1 else 'clients wait'} for a connection to the coordinator, the "
            f"longest for {wait_s:.0f} s: the coordinator does not answer, or transactions keep all "
            f"{figures['max_server_connections']} connections (pg_stat_activity shows them)"
        )
    return found


def _summary(figures: Mapping[str, Any]) -> str:
    clients, waiting = figures["clients"], figures["waiting_clients"]
    return (
        f"{figures['version']}; {clients} of {figures['max_clients']} clients"
        + (f", {waiting} waiting" if waiting else "")
        + f"; {figures['server_connections']} of {figures['max_server_connections']} connections to the coordinator"
    )


def _waiting(row: Mapping[str, Any]) -> int:
    return int(row["cl_waiting"])


def _wait_s(row: Mapping[str, Any]) -> float:
    return round(int(row["maxwait"]) + int(row["maxwait_us"]) / 1_000_000, 3)


def _down(reason: str) -> CompanionStatus:
    return CompanionStatus(ComponentName.PGBOUNCER, Condition.DOWN, reason, {})
