"""Dropping an ordinary role, so that nothing but the role is lost."""

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
    """Drop a role that was made here, its rows on all nodes, and its password; what was done, in words.

    Refused while it owns something, unless ``reassign`` gives that to the owner roles of its schemas, while sessions
    are open, unless ``disconnect`` ends them, and while a background job has tasks of this role. Objects that may do
    more once they have another owner must be ``named``. Raises RoleError, UsageError, WorkerUnreachableError.
    """
    refuse_names(credentials, name, (), None)
    report = ChangeReport(name, emit)
    report.begin(f"looking at role {name}")
    async with translated(f"dropping role {name}"), writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
        cluster = await look(conn)
        role, record = cluster.roles.get(name), cluster.records.get(name)
        if role is not None:
            record = await _refuse_foreign(conn, cluster, name)
            await _refuse_elsewhere(conn, name)
            await citus_roles.refuse_tasks(conn, name)
            await _agreed(conn, cluster, record, reassign=reassign, named=named)
            await _refuse_sessions(conn, cluster, name, disconnect=disconnect)
            # Nobody gets in any more: a session could make what dropping would take along.
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
    report.end(f"there is no role {name}: nothing to do")
    return tuple(report.changed)


async def plan_reassignment(conn: Connection, credentials: CredentialStore, name: str) -> Handover | None:
    """Say who would get what ``drop`` with ``reassign`` gives away; None where the role owns nothing.

    Changes nothing. Raises RoleError, UsageError, WorkerUnreachableError.
    """
    refuse_names(credentials, name, (), None)
    async with translated(f"looking at role {name}"):
        cluster = await look(conn)
        if name not in cluster.roles:
            return None
        record = await _refuse_foreign(conn, cluster, name)
        objects = await _owned(conn, cluster, name)
        return hand_over(objects, record.schemas[0]) if objects else None


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


async def _refuse_foreign(conn: Connection, cluster: Cluster, name: str) -> RoleRecord:
    if name not in cluster.records:
        schema = (await citus_ownership.read_owner_roles(conn)).get(name)
        if schema is not None:
            raise RoleError(
                f"Role {name!r} owns what dropped roles left in schema {schema!r}; it is not dropped.",
                hint=f"Give its tables to another role (ALTER TABLE … OWNER TO …), then on the coordinator: "
                f'DROP ROLE "{name}";',
            )
        raise RoleError(
            f"Role {name!r} was not made by citus-cluster; it is left alone.",
            hint=f'Drop it by SQL (DROP ROLE "{name}"), then run this again: it removes its credentials.',
        )
    refuse_torn(cluster, name)
    return cluster.records[name]


async def _refuse_elsewhere(conn: Connection, name: str) -> None:
    elsewhere = await citus_roles.databases_with(conn, name)
    if elsewhere:
        raise RoleError(
            f"Role {name!r} owns objects or holds privileges in other databases: {', '.join(elsewhere)}.",
            hint=f'In each of them: REASSIGN OWNED BY "{name}" TO …; DROP OWNED BY "{name}"; then run this again.',
        )


async def _refuse_sessions(conn: Connection, cluster: Cluster, name: str, *, disconnect: bool) -> None:
    open_on = {node.address: await citus_roles.session_count(conn, node, name) for node in cluster.nodes}
    if any(open_on.values()) and not disconnect:
        where = ", ".join(f"{number} on {address}" for address, number in open_on.items() if number)
        raise RoleError(
            f"Role {name!r} is in use; sessions are open: {where}. Nothing was changed.",
            hint="Stop what uses it; or end its sessions: --disconnect.",
        )


async def _agreed(
    conn: Connection, cluster: Cluster, record: RoleRecord, *, reassign: bool, named: Sequence[str]
) -> Handover | None:
    """Find out what it owns, and that all of it may be given away; None where it owns nothing.

    Without ``reassign`` dropping would drop that, also what was made on one worker alone.
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
            hint=f"Drop them first; or give them to {new_owners}, which nobody logs in as: {again} (with --dry-run it "
            "shows what goes to whom, and changes nothing).",
            details=_some(owned),
        )
    if unnamed := handover.unnamed(named):
        options = " ".join(f"--reassign-also {quote(one.name)}" for one in unnamed[:_SHOWN])
        raise RoleError(
            f"Role {record.name!r} owns {count(len(unnamed), 'object')} that may do more, or other things, with "
            "another owner; it was not dropped.",
            hint=f"Read the definition of each (\\sf and \\d+ in psql), then drop it, or name it: "
            f"{again} {options}{' …' if len(unnamed) > _SHOWN else ''}",
            details=[f"{one.name}: it {one.reason}" for one in unnamed],
        )
    return handover


async def _owned(conn: Connection, cluster: Cluster, name: str) -> tuple[OwnedObject, ...]:
    """What it owns anywhere: the workers have most of the coordinator's again."""
    found = {node: await citus_ownership.owned_objects(conn, node, name) for node in cluster.nodes}
    coordinator, *workers = cluster.nodes
    return on_all_nodes(found[coordinator], {str(node.address): found[node] for node in workers})


async def _make_heirs(conn: Connection, cluster: Cluster, handover: Handover, report: ChangeReport) -> None:
    """Have the owner roles on every node, able to connect between nodes. Refuse one that has more than it must."""
    for schema in handover.schemas:
        found = await citus_ownership.look_at_owner_role(conn, schema)
        if found.problem or found.name in cluster.records:
            raise RoleError(
                f"Nothing was given away: {found.problem or f'role {found.name!r} is an ordinary role'}.",
                hint=f"Citus-cluster wants that role for what dropped roles leave in schema {schema!r}. Take from it "
                f'what the message names, or rename it: ALTER ROLE "{found.name}" RENAME TO …; then run this again.',
            )
        if not found.exists:
            await citus_ownership.add_owner_role(conn, schema, secrets.generate())
            report(f"role {found.name} made on {count(len(cluster.nodes), 'node')}; nobody knows its password")
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
        report(f"{ended} session{'' if ended == 1 else 's'} of role {name} ended")
