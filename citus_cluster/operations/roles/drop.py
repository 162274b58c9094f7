"""Dropping an ordinary role without losing anything else."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from shlex import quote

from citus_cluster.errors import CitusClusterError, RoleError
from citus_cluster.model.citus.handover import Handover, OwnedObject, hand_over, on_all_nodes, owner_role
from citus_cluster.model.citus.roles import RoleRecord
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.units import count
from citus_cluster.operations.roles.accounts import copy_authinfo
from citus_cluster.operations.roles.cluster import ChangeReport, Cluster, look, refuse_names, refuse_torn
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.citus import ownership as citus_ownership
from citus_cluster.runtime.citus import roles as citus_roles
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.postgres import Connection, translated
from citus_cluster.runtime.store import secrets
from citus_cluster.runtime.store.files import drop_file

SESSIONS_TIMEOUT_S = 10.0
_SHOWN = 10


async def drop(
    conn: Connection,
    credentials: CredentialStore,
    name: str,
    emit: Emit,
    *,
    reassign: bool = False,
    named: Sequence[str] = (),
    disconnect: bool = False,
) -> tuple[str, ...]:
    """Drop a managed role, its rows on all nodes, and its password. Returns a description of the changes.

    This is refused while the role owns objects, unless ``reassign`` gives them to the owner roles of its schemas, while
    sessions are open, unless ``disconnect`` ends them, and while a background job has tasks of this role. Objects that
    may behave differently with another owner must be ``named``. Raises RoleError, UsageError, WorkerUnreachableError.
    """
    refuse_names(credentials, name, (), None)
    report = ChangeReport(name, emit)
    report.begin(f"checking role {name}")
    async with translated(f"dropping role {name}"), writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
        cluster = await look(conn)
        role, record = cluster.roles.get(name), cluster.records.get(name)
        if role is not None:
            await check(conn, cluster, name, reassign=reassign, named=named, disconnect=disconnect)
            record = cluster.records[name]
            # New logins are refused: a session could create objects that would be dropped too.
            await citus_roles.forbid_login(conn, name)
            async with _said_to_be_locked_out(name):
                await _disconnect(conn, cluster, name, report)
                handover = await _agreed(conn, cluster, record, reassign=reassign, named=named)
                if handover:
                    await _make_heirs(conn, cluster, handover, report)
                    await citus_ownership.alter_owners(conn, handover)
                new_owner = owner_role(handover.rest) if handover else None
                await citus_roles.drop_role(conn, name, new_owner=new_owner)
                for owner, objects in _by_new_owner(handover).items():
                    report(f"{count(len(objects), 'object')} given to {owner}: {', '.join(_some(objects))}")
            report(f"role {name} dropped on {count(len(cluster.nodes), 'node')}")
        elif record is not None:
            await citus_roles.forget(conn, name)
            report(f"record of role {name} removed")
        for node in cluster.nodes:
            if node.is_coordinator:
                gone = await citus_roles.remove_own_row(conn, name)
            else:
                gone = await citus_roles.remove_row(conn, node.address, name)
            if gone:
                report(f"credentials of role {name} removed from {node.address}")
        if credentials.root and credentials.password_file(name):
            drop_file(credentials.root, secrets.role_password(name))
            report(f"{secrets.role_password(name)} removed")
    report.end(f"role {name} does not exist: nothing to do")
    return tuple(report.changed)


async def check(
    conn: Connection, cluster: Cluster, name: str, *, reassign: bool, named: Sequence[str], disconnect: bool
) -> Handover | None:
    """Raise what would refuse the drop of a role that exists; arguments and errors as in :func:`drop`.

    Returns the new owners of its objects, None if it owns none. Changes nothing.
    """
    record = await _refuse_foreign(conn, cluster, name)
    await _refuse_elsewhere(conn, name)
    await citus_roles.refuse_tasks(conn, name)
    handover = await _agreed(conn, cluster, record, reassign=reassign, named=named)
    await _refuse_sessions(conn, cluster, name, disconnect=disconnect)
    return handover


async def plan_reassignment(conn: Connection, credentials: CredentialStore, name: str) -> Handover | None:
    """Return the new owners of the objects that ``drop`` with ``reassign`` gives away, or None if the role owns none.

    Changes nothing. Raises RoleError, UsageError, WorkerUnreachableError.
    """
    refuse_names(credentials, name, (), None)
    async with translated(f"checking role {name}"):
        cluster = await look(conn)
        if name not in cluster.roles:
            return None
        record = await _refuse_foreign(conn, cluster, name)
        objects = await _owned(conn, cluster, name)
        return hand_over(objects, record.schemas[0]) if objects else None


@asynccontextmanager
async def _said_to_be_locked_out(name: str) -> AsyncIterator[None]:
    """Add to every error that the role may no longer log in, and how to allow it again."""
    try:
        async with translated(f"dropping role {name}"):
            yield
    except CitusClusterError as error:
        again = f'The role may no longer log in. To allow it again, run on the coordinator: ALTER ROLE "{name}" LOGIN;'
        error.hint = f"{error.hint} {again}" if error.hint else again
        raise


async def _refuse_foreign(conn: Connection, cluster: Cluster, name: str) -> RoleRecord:
    if name not in cluster.records:
        schema = (await citus_ownership.read_owner_roles(conn)).get(name)
        if schema is not None:
            raise RoleError(
                f"Role {name!r} owns objects of dropped roles in schema {schema!r}; it was not dropped.",
                hint=f"Give its tables to another role (ALTER TABLE … OWNER TO …), then run on the coordinator: "
                f'DROP ROLE "{name}";',
            )
        raise RoleError(
            f"Role {name!r} was not created by citus-cluster; it was not changed.",
            hint=f'Drop it by SQL (DROP ROLE "{name}"), then run the command again, which removes its credentials.',
        )
    refuse_torn(cluster, name)
    return cluster.records[name]


async def _refuse_elsewhere(conn: Connection, name: str) -> None:
    elsewhere = await citus_roles.databases_with(conn, name)
    if elsewhere:
        raise RoleError(
            f"Role {name!r} owns objects or has privileges in other databases: {', '.join(elsewhere)}.",
            hint=f'Run in each: REASSIGN OWNED BY "{name}" TO …; DROP OWNED BY "{name}"; then run the command again.',
        )


async def _refuse_sessions(conn: Connection, cluster: Cluster, name: str, *, disconnect: bool) -> None:
    open_on = {node.address: await citus_roles.session_count(conn, node, name) for node in cluster.nodes}
    if any(open_on.values()) and not disconnect:
        where = ", ".join(f"{number} on {address}" for address, number in open_on.items() if number)
        raise RoleError(
            f"Role {name!r} has open sessions: {where}. Nothing was changed.",
            hint="Stop the applications that use it, or end its sessions with --disconnect.",
        )


async def _agreed(
    conn: Connection, cluster: Cluster, record: RoleRecord, *, reassign: bool, named: Sequence[str]
) -> Handover | None:
    """Find the objects of the role, and check that all of them may be reassigned. Returns None if it owns none.

    Without ``reassign``, the drop would drop them, including those that exist only on one worker.
    """
    owned = await _owned(conn, cluster, record.name)
    if not owned:
        return None
    handover = hand_over(owned, record.schemas[0])
    again = f"citus-cluster roles drop {record.name} --reassign"
    if not reassign:
        new_owners = ", ".join(_by_new_owner(handover))
        raise RoleError(
            f"Role {record.name!r} owns {count(len(owned), 'object')}; it was not dropped.",
            hint=f"Drop them first, or give them to {new_owners}, which nobody logs in as: {again} (--dry-run shows "
            "the new owners and changes nothing).",
            details=_some(owned),
        )
    if unnamed := handover.unnamed(named):
        options = " ".join(f"--reassign-also {quote(one.name)}" for one in unnamed[:_SHOWN])
        raise RoleError(
            f"Role {record.name!r} owns {count(len(unnamed), 'object')} that may behave differently with "
            "another owner; it was not dropped.",
            hint=f"Read the definition of each (\\sf and \\d+ in psql), then drop it, or name it: "
            f"{again} {options}{' …' if len(unnamed) > _SHOWN else ''}",
            details=[f"{one.name}: it {one.reason}" for one in unnamed],
        )
    return handover


async def _owned(conn: Connection, cluster: Cluster, name: str) -> tuple[OwnedObject, ...]:
    """Return the objects of the role on all nodes; most objects of the workers are those of the coordinator."""
    found = {node: await citus_ownership.owned_objects(conn, node, name) for node in cluster.nodes}
    coordinator, *workers = cluster.nodes
    return on_all_nodes(found[coordinator], {str(node.address): found[node] for node in workers})


async def _make_heirs(conn: Connection, cluster: Cluster, handover: Handover, report: ChangeReport) -> None:
    """Create the owner roles on every node, able to connect between nodes. Refuse one with extra privileges."""
    for schema in handover.schemas:
        found = await citus_ownership.look_at_owner_role(conn, schema)
        if found.problem or found.name in cluster.records:
            raise RoleError(
                f"No object was reassigned: {found.problem or f'role {found.name!r} is an ordinary role'}.",
                hint=f"citus-cluster needs that role for objects of dropped roles in schema {schema!r}. Revoke what "
                "the message names, "
                f'or rename the role: ALTER ROLE "{found.name}" RENAME TO …; then run the command again.',
            )
        if not found.exists:
            await citus_ownership.add_owner_role(conn, schema, secrets.generate())
            report(f"role {found.name} created on {count(len(cluster.nodes), 'node')}; nobody knows its password")
        else:
            refuse_torn(cluster, found.name)
            if await citus_roles.kept_password(conn, found.name) is None:
                await citus_roles.change_password(conn, found.name, secrets.generate())
                report(f"credentials of role {found.name} renewed")
        await citus_ownership.let_own(conn, schema)
        await copy_authinfo(conn, cluster, found.name, report)


def _by_new_owner(handover: Handover | None) -> Mapping[str, list[OwnedObject]]:
    found: dict[str, list[OwnedObject]] = {}
    for one, new_owner in handover.new_owners.items() if handover else ():
        found.setdefault(new_owner, []).append(one)
    return found


def _some(owned: Sequence[OwnedObject]) -> list[str]:
    more = [f"and {len(owned) - _SHOWN} more"] if len(owned) > _SHOWN else []
    return [*(one.name for one in owned[:_SHOWN]), *more]


async def _disconnect(conn: Connection, cluster: Cluster, name: str, report: ChangeReport) -> None:
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
        report(f"ended {count(ended, 'session')} of role {name}")
