"""Dropping an ordinary role, so that nothing but the role is lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from citus_cluster.errors import CitusClusterError, RoleError
from citus_cluster.model.events import Emit
from citus_cluster.operations import role_cluster
from citus_cluster.operations.role_cluster import Cluster, Done, count, look, refuse_names, refuse_torn
from citus_cluster.operations.role_passwords import Home
from citus_cluster.runtime import citus_roles, secrets
from citus_cluster.runtime.citus_lock import writer_lock
from citus_cluster.runtime.files import drop_file
from citus_cluster.runtime.postgres import Connection, translated

SESSIONS_TIMEOUT_S = 10.0
_SHOWN = 10


async def drop(
    conn: Connection, home: Home, name: str, emit: Emit, *, reassign: bool = False, disconnect: bool = False
) -> tuple[str, ...]:
    """Drop a role that was made here, its rows on all nodes, and its password; what was done, in words.

    Refused while it owns something, unless ``reassign`` gives that to the superuser, and while sessions are open,
    unless ``disconnect`` ends them. Raises RoleError, UsageError, WorkerUnreachableError.
    """
    refuse_names(home, name, (), None)
    done = Done(name, emit)
    done.begin(f"looking at role {name}")
    async with translated(f"dropping role {name}"), writer_lock(conn, wait_s=role_cluster.WAIT_FOR_LOCK_S):
        cluster = await look(conn)
        role, record = cluster.roles.get(name), cluster.records.get(name)
        if role is not None:
            if record is None:
                raise RoleError(
                    f"Role {name!r} was not made by citus-cluster; it is left alone.",
                    hint=f'Drop it by SQL (DROP ROLE "{name}"), then run this again: it removes its credentials.',
                )
            refuse_torn(cluster, name)
            await _refuse_use(conn, cluster, name, reassign=reassign, disconnect=disconnect)
            # Nobody gets in any more: a session could make what dropping would take along.
            await citus_roles.forbid_login(conn, name)
            async with _said_to_be_locked_out(name):
                await _disconnect(conn, cluster, name, done)
                if not reassign:
                    await _refuse_owner(conn, cluster, name)
                given = await _owned(conn, cluster, name) if reassign else []
                await citus_roles.drop_role(conn, name, heir=home.coordinator.user if reassign else None)
                if given:
                    done(f"{count(given, 'object')} given to {home.coordinator.user}: {', '.join(_some(given))}")
            done(f"role {name} dropped on {count(cluster.nodes, 'node')}")
        elif record is not None:
            await citus_roles.forget(conn, name)
            done(f"record of role {name} removed")
        for node in cluster.nodes:
            if node.is_coordinator:
                gone = await citus_roles.remove_own_row(conn, name)
            else:
                gone = await citus_roles.remove_row(conn, node.address, name)
            if gone:
                done(f"credentials of role {name} removed from {node.address}")
        if home.root and home.password_file(name):
            drop_file(home.root, secrets.role_password(name))
            done(f"{secrets.role_password(name)} removed")
    done.end(f"there is no role {name}: nothing to do")
    return tuple(done.changed)


@asynccontextmanager
async def _said_to_be_locked_out(name: str) -> AsyncIterator[None]:
    """Let every error say that the role may not log in any more, and how it may again."""
    try:
        async with translated(f"dropping role {name}"):
            yield
    except CitusClusterError as error:
        again = f'The role may not log in any more; to let it again, on the coordinator: ALTER ROLE "{name}" LOGIN;'
        error.hint = f"{error.hint} {again}" if error.hint else again
        raise


async def _refuse_use(conn: Connection, cluster: Cluster, name: str, *, reassign: bool, disconnect: bool) -> None:
    elsewhere = await citus_roles.databases_with(conn, name)
    if elsewhere:
        raise RoleError(
            f"Role {name!r} owns objects or holds privileges in other databases: {', '.join(elsewhere)}.",
            hint=f'In each of them: REASSIGN OWNED BY "{name}" TO …; DROP OWNED BY "{name}"; then run this again.',
        )
    if not reassign:
        await _refuse_owner(conn, cluster, name)
    open_on = {node.address: await citus_roles.session_count(conn, node, name) for node in cluster.nodes}
    if any(open_on.values()) and not disconnect:
        where = ", ".join(f"{number} on {address}" for address, number in open_on.items() if number)
        raise RoleError(
            f"Role {name!r} is in use; sessions are open: {where}. Nothing was changed.",
            hint="Stop what uses it; or end its sessions: --disconnect.",
        )


async def _refuse_owner(conn: Connection, cluster: Cluster, name: str) -> None:
    """Dropping would drop what it owns, also what was made on one worker alone."""
    if owned := await _owned(conn, cluster, name):
        raise RoleError(
            f"Role {name!r} owns {count(owned, 'object')}; it was not dropped.",
            hint=f"Drop them first; or give them to the superuser {conn.info.user!r}: "
            f"citus-cluster roles drop {name} --reassign.",
            details=_some(owned),
        )


async def _owned(conn: Connection, cluster: Cluster, name: str) -> list[str]:
    """What it owns on the first node where it owns something: the workers have most of the coordinator's again."""
    for node in cluster.nodes:
        if here := await citus_roles.owned_objects(conn, node, name):
            return [one if node.is_coordinator else f"{one} on {node.address}" for one in here]
    return []


def _some(owned: list[str]) -> list[str]:
    more = [f"and {len(owned) - _SHOWN} more"] if len(owned) > _SHOWN else []
    return [*owned[:_SHOWN], *more]


async def _disconnect(conn: Connection, cluster: Cluster, name: str, done: Done) -> None:
    """End all sessions, and wait until none is left."""
    deadline = time.monotonic() + SESSIONS_TIMEOUT_S
    ended = 0
    for node in cluster.nodes:
        ended += await citus_roles.session_count(conn, node, name)
        while await citus_roles.end_sessions(conn, node, name):
            if time.monotonic() > deadline:
                raise RoleError(
                    f"Sessions of role {name!r} on {node.address} do not end.",
                    hint="Restart that node, then run the command again.",
                )
            await asyncio.sleep(0.1)
    if ended:
        done(f"{ended} session{'' if ended == 1 else 's'} of role {name} ended")
