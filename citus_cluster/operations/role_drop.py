"""Dropping an ordinary role, so that nothing but the role is lost."""

import asyncio
import time

from citus_cluster.errors import RoleError
from citus_cluster.model.events import Emit
from citus_cluster.operations import role_cluster
from citus_cluster.operations.role_cluster import Cluster, Done, count, look, refuse_names, refuse_torn
from citus_cluster.operations.role_passwords import Home
from citus_cluster.runtime import citus_roles, secrets
from citus_cluster.runtime.citus import writer_lock
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
            await _disconnect(conn, cluster, name, done)
            if not reassign:
                await _refuse_owner(conn, cluster, name)
            await citus_roles.drop_role(conn, name, heir=home.coordinator.user if reassign else None)
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
    owned: list[str] = []
    for node in cluster.nodes:
        here = await citus_roles.owned_objects(conn, node, name)
        owned += [one if node.is_coordinator else f"{one} on {node.address}" for one in here]
        if owned:
            break  # the workers have most of the coordinator's again
    if owned:
        more = [f"and {len(owned) - _SHOWN} more"] if len(owned) > _SHOWN else []
        raise RoleError(
            f"Role {name!r} owns {count(owned, 'object')}; it was not dropped.",
            hint=f"Drop them first; or give them to the superuser {conn.info.user!r}: "
            f"citus-cluster roles drop {name} --reassign.",
            details=[*owned[:_SHOWN], *more],
        )


async def _disconnect(conn: Connection, cluster: Cluster, name: str, done: Done) -> None:
    """Let nobody in any more, and wait until nobody is: a session could make what dropping would take along."""
    await citus_roles.forbid_login(conn, name)
    deadline = time.monotonic() + SESSIONS_TIMEOUT_S
    ended = 0
    for node in cluster.nodes:
        here = await citus_roles.session_count(conn, node, name)
        ended += here
        while here:
            await citus_roles.end_sessions(conn, node, name)
            await asyncio.sleep(0.1)
            here = await citus_roles.session_count(conn, node, name)
            if here and time.monotonic() > deadline:
                raise RoleError(
                    f"Sessions of role {name!r} on {node.address} do not end.",
                    hint="Restart that node, then run the command again.",
                )
    if ended:
        done(f"{ended} session{'' if ended == 1 else 's'} of role {name} ended")
