"""Verifies the cluster: every worker is registered, every connection works, and a distributed write can be read."""

import re
from collections.abc import Sequence

import psycopg

from citus_cluster.errors import VerificationError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.operations.nodes.losses import find_losses
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import verify as citus_verify
from citus_cluster.runtime.citus.rebalance import running_job_id
from citus_cluster.runtime.citus.server import active_workers
from citus_cluster.runtime.postgres import Connection, describe, translated

HEALTH_TIMEOUT_S = 20.0
# Citus tests the connections of each node to every node serially; 289 connections took 3.7 s on two busy cores.
CONNECTION_S = 0.05
ROUND_TRIP_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 5.0


async def verify(conn: Connection, expected: Sequence[NodeAddress], emit: Emit) -> None:
    """Check that the ``expected`` workers are active, and that the cluster stores and finds rows on all of them.

    Leaves no data behind. A round trip that a running rebalance blocks is SKIPPED, with the reason. Raises
    VerificationError, which names what is wrong, and UnreachableError if the coordinator is away.
    """
    async with translated("verifying the cluster"):
        await _verify_workers(conn, expected, emit)
        await _verify_connections(conn, emit)
        await _verify_data(conn, emit)
        await _verify_round_trip(conn, emit)


async def _verify_workers(conn: Connection, expected: Sequence[NodeAddress], emit: Emit) -> None:
    active = {NodeAddress(host, port) for host, port in await active_workers(conn)}
    # Without workers, Citus lists the coordinator if it holds shards.
    missing = [str(worker) for worker in expected if worker not in active]
    if missing:
        raise VerificationError(
            f"These workers are not active: {', '.join(missing)}.",
            hint="Run citus-cluster up again. If a worker was removed on purpose, add_worker.py registers it again.",
            details=missing,
        )
    emit(Event("verify:workers", EventKind.DONE, "all expected workers are active", {"workers": len(expected)}))


async def _verify_connections(conn: Connection, emit: Emit) -> None:
    nodes = (await citus_nodes.read_registry(conn)).nodes
    silent = await citus_probe.unreachable_nodes(conn, nodes)
    if silent:
        raise VerificationError(
            "Not every node answers: " + " ".join(silent),
            hint="Check it on its server with docker compose ps. Start it, or resume it with docker compose unpause.",
            details=silent,
        )
    timeout_s = HEALTH_TIMEOUT_S + CONNECTION_S * len(nodes) ** 2
    try:
        rows = await citus_nodes.node_health(conn, timeout_s)
    except psycopg.errors.QueryCanceled as error:
        raise VerificationError(
            f"The nodes did not connect to each other within {timeout_s:g} s: one of them does not answer.",
            hint="Check each server with docker compose ps, and resume paused containers with docker compose unpause.",
        ) from error
    bad = [f"{source} cannot connect to {target}" for source, target, good in rows if good is False]
    bad += sorted({f"the coordinator cannot connect to {source}" for source, _, good in rows if good is None})
    if bad:
        raise VerificationError(
            "Nodes cannot connect to each other: " + "; ".join(bad) + ".",
            hint="See the logs of these nodes, which also show whether a password differs between nodes.",
            details=bad,
        )
    emit(Event("verify:connections", EventKind.DONE, f"all {len(rows)} connections between nodes work"))


async def _verify_data(conn: Connection, emit: Emit) -> None:
    warned: list[Event] = []
    losses = await find_losses(conn, (await citus_nodes.read_registry(conn)).nodes, warned.append)
    for warning in warned:
        emit(warning)
    if losses:
        raise VerificationError(
            " ".join(map(str, losses)),
            hint=" ".join(loss.way_out for loss in losses),
            details=[str(loss) for loss in losses] if len(losses) > 1 else (),
        )
    if not warned:
        emit(Event("verify:data", EventKind.DONE, "every shard exists on its node"))


async def _verify_round_trip(conn: Connection, emit: Emit) -> None:
    registry = await citus_nodes.read_registry(conn)
    holders = [node for node in registry.nodes if _holds_shards(node)] or [
        node for node in registry.nodes if node.is_coordinator
    ]
    if not holders:
        raise VerificationError("No node may hold shards.", hint="Register a worker with add_worker.py.")
    try:
        trip = await citus_verify.write_and_read(
            conn, len(holders), statement_timeout_s=ROUND_TRIP_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S
        )
        left = await citus_verify.leftovers(conn, timeout_s=HEALTH_TIMEOUT_S)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled) as error:
        await _explain_blocked(conn, error, emit)
        return
    except psycopg.Error as error:
        if conn.closed:
            raise
        raise VerificationError(
            f"A distributed table could not be written and read: {describe(error)}",
            hint=error.diag.message_hint or _hint_for(error),
        ) from error
    _judge(trip, holders)
    if left:
        raise VerificationError(f"A verification left objects behind: {'; '.join(left)}.", details=left)
    message = f"{trip.rows_written} rows written and read on every node that holds shards, and rolled back"
    emit(Event("verify:round-trip", EventKind.DONE, message, {"nodes": len(holders)}))


def _hint_for(error: psycopg.Error) -> str:
    role = re.search(r'role "(.+)" does not exist', str(error))
    if role:
        return (
            f"The role {role[1]} is missing on a node. To find the node: citus-cluster roles list. To repair the role: "
            f"citus-cluster roles create {role[1]} (with its --access)"
        )
    return "See the logs of the nodes: docker compose logs --tail 50"


def _holds_shards(node: RegisteredNode) -> bool:
    return node.is_active and node.should_have_shards and node.role == "primary"


async def _explain_blocked(conn: Connection, error: psycopg.Error, emit: Emit) -> None:
    job_id = await running_job_id(conn)
    if job_id is None:
        raise VerificationError(
            f"A distributed write and read did not end in time: {describe(error)}",
            hint="A session holds a lock, or a worker hangs. Check with SELECT * FROM citus_lock_waits, and "
            "citus-cluster status.",
        ) from error
    reason = f"skipped the write and read: rebalance {job_id} is running and holds locks"
    emit(Event("verify:round-trip", EventKind.SKIPPED, reason, {"job_id": job_id}))


def _judge(trip: citus_verify.RoundTrip, holders: Sequence[RegisteredNode]) -> None:
    bad = [f"{node.address} got no shard" for node in holders if node.address not in trip.shard_nodes.values()]
    bad += [
        f"shard {shard_id} on {node} did not return its row"
        for shard_id, node in trip.shard_nodes.items()
        if shard_id not in trip.read
    ]
    if trip.rows_counted != trip.rows_written:
        bad.append(f"{trip.rows_written} rows were written, {trip.rows_counted} counted")
    if trip.checksum_read != trip.checksum_written:
        bad.append("the checksum of the rows differs from what was written")
    if bad:
        raise VerificationError("A distributed table does not work correctly: " + "; ".join(bad) + ".", details=bad)
