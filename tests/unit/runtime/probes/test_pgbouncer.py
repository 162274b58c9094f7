"""What PgBouncer's own figures mean for its condition."""

from collections.abc import Mapping
from typing import Any

from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.runtime.probes.pgbouncer import judge

POOLS = {
    "cl_active": 0,
    "cl_waiting": 0,
    "sv_active": 0,
    "sv_idle": 0,
    "sv_used": 0,
    "sv_tested": 0,
    "maxwait": 0,
    "maxwait_us": 0,
}
OTHERS = {"current_client_connections": 2, "max_client_connections": 1000}


def found(app: Mapping[str, Any], *, clients: int = 3, auth: Mapping[str, Any] | None = None) -> CompanionStatus:
    return judge(
        version={"version": "PgBouncer 1.26.1"},
        pools=[
            {**POOLS, "database": "auth.citus-cluster", "user": "pgbouncer", **(auth or {})},
            {**POOLS, "database": "pgbouncer", "user": "pgbouncer", "cl_active": 1},
            {**POOLS, "database": "shop", "user": "pgbouncer"},
            {**POOLS, "database": "shop", "user": "app", **app},
        ],
        databases=[
            {"name": "auth.citus-cluster", "current_connections": 1, "max_connections": 1, **OTHERS},
            {"name": "pgbouncer", "current_connections": 0, "max_connections": 0, **OTHERS},
            {
                "name": "shop",
                "current_connections": 7,
                "max_connections": 20,
                "current_client_connections": clients,
                "max_client_connections": 1000,
            },
        ],
        stats=[
            {"database": "shop", "avg_xact_count": "41", "avg_wait_time": "2500"},
            {"database": "auth.citus-cluster", "avg_xact_count": "9", "avg_wait_time": "9000"},
        ],
    )


def test_figures_are_those_of_clients() -> None:
    one = found({"cl_active": 2, "cl_waiting": 1, "sv_active": 4, "sv_idle": 1, "sv_used": 2, "maxwait_us": 250_000})
    assert (one.condition, one.reason) == (Condition.OK, None)
    assert one.summary == "1.26.1; 3 of 1000 clients, 1 waiting; 7 of 20 connections to the coordinator"
    assert one.figures == {
        "version": "1.26.1",
        "clients": 3,
        "max_clients": 1000,
        "waiting_clients": 1,
        "longest_wait_s": 0.25,
        "server_connections": 7,
        "max_server_connections": 20,
        "active_server_connections": 4,
        "transactions_per_s": 41,
        "average_wait_ms": 2.5,
        "pools": [
            {
                "role": "app",
                "database": "shop",
                "clients": 3,
                "waiting_clients": 1,
                "longest_wait_s": 0.25,
                "active_server_connections": 4,
                "idle_server_connections": 3,
            }
        ],
    }


def test_a_long_wait_and_a_full_house_are_told() -> None:
    slow = found({"cl_waiting": 2, "maxwait": 5})
    assert slow.condition is Condition.DEGRADED
    assert str(slow.reason).startswith("2 clients wait for a connection to the coordinator, the longest for 5 s")
    assert found({"cl_waiting": 2, "maxwait": 4, "maxwait_us": 999_000}).condition is Condition.OK
    assert "1 client waits" in str(found({}, auth={"cl_waiting": 1, "maxwait": 9}).reason)
    assert found({}, clients=999).condition is Condition.OK
    assert "1000 clients are connected" in str(found({}, clients=1000).reason)
