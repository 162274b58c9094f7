"""Queries to any server through the coordinator.

A worker's name may not resolve where the command runs, and only the coordinator needs its password. So the coordinator
connects, with its own entry in ``pg_dist_authinfo`` and the library of dblink, declared for one transaction that is
rolled back: nothing is installed, and nothing is left behind.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar, cast

import psycopg
from psycopg.conninfo import make_conninfo

from citus_cluster.errors import (
    AuthenticationError,
    CitusClusterError,
    ReaderRefusedError,
    UnprovenServerError,
    UnreachableError,
    WorkerUnreachableError,
)
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.reader import READER_ROLE
from citus_cluster.model.citus.registration import Instance, NodeIdentity, RegisteredNode
from citus_cluster.model.companion_status import timed_out
from citus_cluster.runtime.libpq import NOT_IN_CLEAR, PROVEN
from citus_cluster.runtime.postgres import (
    Connection,
    ConnectionInfo,
    bounded,
    connect,
    describe,
    gives_password_away,
    set_local,
    tidy,
)

_DIRECT_S = 0.5
"""How long a node may take to accept a login of the role that only reads, before the superuser asks it."""
CONNECT_TIMEOUT_S = 3
"""For libpq; from PostgreSQL 16 on, dblink ignores it, and the time limit of the answer applies."""
REQUIRE_AUTH_SINCE = 160000
"""The first PostgreSQL version whose libpq has ``require_auth``."""
T = TypeVar("T")
ANSWER_TIMEOUT_S = 4.0
AGAIN_TIMEOUT_S = 1.5 * ANSWER_TIMEOUT_S
REACH_TIMEOUT_S = 8.0

NO_LOGGING = {
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_error_statement": "panic",
    "log_min_messages": "panic",
}
"""Settings with which no statement is logged, even if it fails, because it contains a role's password."""

# Citus logs a warning that it does not propagate a temporary function, which is intended.
_QUIET = {"citus.enable_ddl_propagation": "off", "log_min_messages": "error"}

_DECLARE = """
CREATE FUNCTION pg_temp.citus_cluster_ask(text, text) RETURNS SETOF record
LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_record'
"""
_CONNINFO = """
concat_ws(' ', current_setting('citus.node_conninfo', true),
          (SELECT authinfo FROM pg_dist_authinfo WHERE rolename = current_user AND nodeid = 0), %(target)s::text)
"""
_ASK = f"SELECT document FROM pg_temp.citus_cluster_ask({_CONNINFO}, %(question)s) AS answer(document text)"  # noqa: S608 # our own constant
_COPY_ROLES = f"""
SELECT copied FROM pg_temp.citus_cluster_ask({_CONNINFO}, (
    SELECT format(
        'WITH copied AS (INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo) '
        'SELECT 0, role, info FROM (VALUES %%s) AS known(role, info) WHERE to_regrole(quote_ident(role)) IS NOT NULL '
        'ON CONFLICT (rolename, nodeid) DO UPDATE SET authinfo = EXCLUDED.authinfo RETURNING 1) '
        'SELECT count(*) FROM copied',
        string_agg(format('(%%L, %%L)', rolename, authinfo), ', '))
    FROM pg_dist_authinfo WHERE nodeid = 0 AND rolename <> current_user HAVING count(*) > 0
)) AS answer(copied bigint)
"""  # noqa: S608 # our own constant

_IDENTITY = """
SELECT json_build_object(
    'postgres_version', current_setting('server_version'),
    'extension_version', (SELECT extversion FROM pg_extension WHERE extname = 'citus'),
    'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
    'in_recovery', pg_is_in_recovery())
"""
_CITUS = """
SELECT json_build_object(
    'citus_version', substring(citus_version() from 'Citus ([^ ]+)'),
    'group_id', (SELECT groupid FROM pg_dist_local_group),
    'coordinator_host', (SELECT nodename FROM pg_dist_node WHERE groupid = 0 AND noderole = 'primary'),
    'coordinator_port', (SELECT nodeport FROM pg_dist_node WHERE groupid = 0 AND noderole = 'primary'))
"""


_INSTANCE = """
SELECT json_build_object(
    'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
    'started_at', pg_postmaster_start_time(),
    'in_recovery', pg_is_in_recovery(),
    'group_id', (SELECT groupid FROM pg_dist_local_group))
"""


class ProbeUnavailableError(CitusClusterError):
    """The coordinator's image does not have the library of dblink."""


async def ask_patiently(question: Callable[[float], Awaitable[T]]) -> T:
    """Run a query, which takes its time-out in seconds, and retry it once with more time if there is no answer in time.

    A busy machine can cause a single time-out; a refusal counts at once. Errors are those of ``question``.
    """
    try:
        return await question(ANSWER_TIMEOUT_S)
    except psycopg.errors.QueryCanceled:
        pass
    except WorkerUnreachableError as error:
        if not timed_out(error.message):
            raise
    return await question(AGAIN_TIMEOUT_S)


async def ask(
    conn: Connection,
    node: NodeAddress,
    question: str,
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
    registered: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Mapping[str, object]:
    """Let the coordinator run a query on ``node`` that returns one JSON document, with a time limit.

    A server that is not ``registered`` must prove that it knows the password. ``settings`` apply to the query. Raises
    AuthenticationError, WorkerUnreachableError, ProbeUnavailableError.
    """
    if conn.info.user == READER_ROLE:
        return await _ask_directly(conn, node, question, timeout_s, settings)
    require_auth = NOT_IN_CLEAR if registered else PROVEN
    parameters = {
        "target": _target(conn, node, timeout_s, require_auth=require_auth, **(settings or {})),
        "question": question,
    }
    document = await _run(conn, node, _ASK, parameters, timeout_s)
    return cast("Mapping[str, object]", json.loads(str(document)))


async def _ask_directly(
    conn: Connection, node: NodeAddress, question: str, timeout_s: float, settings: Mapping[str, str] | None
) -> Mapping[str, object]:
    """Like :func:`ask`, as the role that only reads: it may not let the coordinator ask, but it logs in to each node.

    Raises ReaderRefusedError, which callers do not take for a node that is silent: the superuser may get an answer.
    """
    info = ConnectionInfo(node.host, node.port, conn.info.user, conn.info.dbname, conn.info.password)
    application = conn.info.parameter_status("application_name") or READER_ROLE
    try:
        async with (
            await connect(info, timeout_s=min(timeout_s, _DIRECT_S), application_name=application) as own,
            bounded(own, timeout_s, rollback=True),
        ):
            if settings:
                await set_local(own, dict(settings))
            row = await (await own.execute(question.encode())).fetchone()
    except (CitusClusterError, psycopg.OperationalError, psycopg.errors.InsufficientPrivilege) as error:
        raise ReaderRefusedError(f"{node} does not answer role {READER_ROLE}.") from error
    return cast("Mapping[str, object]", row[0] if row else {})


async def ask_node(
    conn: Connection,
    node: RegisteredNode,
    question: str,
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
    settings: Mapping[str, str] | None = None,
) -> Mapping[str, object]:
    """Like :func:`ask`, for any node of the cluster: the coordinator answers directly."""
    if not (node.is_coordinator and node.role == "primary"):
        return await ask(conn, node.address, question, timeout_s=timeout_s, registered=True, settings=settings)
    try:
        async with bounded(conn, timeout_s, rollback=True):
            if settings:
                await set_local(conn, dict(settings))
            row = await (await conn.execute(question.encode())).fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        if conn.info.user != READER_ROLE:
            raise
        raise ReaderRefusedError(f"{node.address} does not answer role {READER_ROLE}.") from error
    return cast("Mapping[str, object]", row[0] if row else {})


async def ask_all(
    conn: Connection,
    nodes: Iterable[RegisteredNode],
    question: str,
    *,
    timeout_s: float = ANSWER_TIMEOUT_S,
    settings: Mapping[str, str] | None = None,
    known: Mapping[NodeAddress, str] | None = None,
) -> tuple[tuple[tuple[RegisteredNode, object], ...], Mapping[NodeAddress, str]]:
    """Run a query on every active node. Return the answers, and why the other nodes gave none.

    Nodes that are ``known`` to be silent are not asked: each would take the whole time limit.
    Raises ProbeUnavailableError, and the driver's error if the connection to the coordinator is lost.
    """
    answers: list[tuple[RegisteredNode, object]] = []
    silent: dict[NodeAddress, str] = {}
    for node in nodes:
        if not node.is_active:
            continue
        if known and node.address in known:
            silent[node.address] = known[node.address]
            continue
        try:
            answers.append((node, await ask_node(conn, node, question, timeout_s=timeout_s, settings=settings)))
        except (UnreachableError, psycopg.Error) as error:
            if conn.closed:
                raise
            silent[node.address] = describe(error) if isinstance(error, psycopg.Error) else error.message
    return tuple(answers), silent


async def tell(conn: Connection, node: NodeAddress, statement: str) -> None:
    """Let the coordinator run one statement only on ``node``, which commits separately. Errors as in :func:`ask`."""
    target = _target(conn, node, ANSWER_TIMEOUT_S, **{"citus.enable_ddl_propagation": "off"})
    await _run(conn, node, _ASK, {"target": target, "question": statement}, ANSWER_TIMEOUT_S)


async def unreachable_nodes(conn: Connection, nodes: Iterable[RegisteredNode]) -> tuple[str, ...]:
    """Like :func:`silence`, but returns only the lines."""
    return tuple((await silence(conn, nodes)).values())


async def silence(conn: Connection, nodes: Iterable[RegisteredNode]) -> Mapping[NodeAddress, str]:
    """Return the active nodes that do not answer now, one line with the reason for each.

    Call this before Citus: its backend, once it waits for a node that hangs, can be neither stopped by a timeout nor
    cancelled, and keeps its locks (``ShutdownConnection`` sends a cancel request and waits).
    """
    found: dict[NodeAddress, str] = {}
    for node in nodes:
        if not node.is_active:
            continue
        try:
            await ask_node(conn, node, "SELECT to_json(1)")
        except ProbeUnavailableError:
            return {}
        except UnreachableError as error:
            if conn.closed:
                raise
            found[node.address] = error.message
    return found


async def copy_role_passwords(conn: Connection, node: NodeAddress) -> int:
    """Copy the coordinator's credentials of other roles to ``node``. Returns their number.

    The node must be registered, so that it has the roles. The coordinator builds the statement, so that no password
    passes through this process, and sends it with logging off. An error never repeats the server's message, which may
    contain a row.
    """
    target = _target(conn, node, ANSWER_TIMEOUT_S, **NO_LOGGING)
    try:
        return int(str(await _run(conn, node, _COPY_ROLES, {"target": target}, ANSWER_TIMEOUT_S, NO_LOGGING) or 0))
    except psycopg.Error as error:
        state = error.sqlstate
    raise CitusClusterError(f"{node} refused the passwords of the other roles (SQLSTATE {state}).")


async def own_identity(conn: Connection) -> NodeIdentity:
    """Return the identity of the server that ``conn`` is connected to."""
    document: dict[str, object] = {}
    async with bounded(conn, ANSWER_TIMEOUT_S):
        for question in (_IDENTITY, _CITUS):
            row = await (await conn.execute(question)).fetchone()
            document |= row[0] if row else {}
    return NodeIdentity.from_json(document)


async def identity(conn: Connection, node: NodeAddress, *, registered: bool = False) -> NodeIdentity:
    """Return the identity of another server, queried by the coordinator; arguments and errors as in :func:`ask`."""
    document = dict(await ask(conn, node, _IDENTITY, registered=registered))
    if document["extension_version"] is not None:
        document |= await ask(conn, node, _CITUS, registered=registered)
    return NodeIdentity.from_json(document)


async def instance(conn: Connection, node: NodeAddress) -> Instance:
    """Return which server answers at an address that need not be in the node list; errors as in :func:`ask`."""
    return _instance(await ask(conn, node, _INSTANCE))


async def instance_of(conn: Connection, node: RegisteredNode) -> Instance:
    """Return which server answers for a node of the cluster; errors as in :func:`ask`."""
    return _instance(await ask_node(conn, node, _INSTANCE))


def _instance(document: Mapping[str, object]) -> Instance:
    return Instance(
        str(document["system_identifier"]),
        str(document["started_at"]),
        bool(document["in_recovery"]),
        int(str(document["group_id"])),
    )


async def reaches(conn: Connection, node: NodeAddress, other: NodeAddress) -> bool:
    """Return whether ``node`` can connect to ``other`` with its own credentials. Errors as in :func:`ask`."""
    statement = psycopg.sql.SQL("SELECT to_json(citus_check_connection_to_node({}, {}))").format(other.host, other.port)
    target = _target(conn, node, REACH_TIMEOUT_S, **{"citus.node_connection_timeout": "3000"})
    parameters = {"target": target, "question": statement.as_string(conn)}
    return await _run(conn, node, _ASK, parameters, REACH_TIMEOUT_S) == "true"


async def coordinator_reaches(conn: Connection, node: NodeAddress) -> bool:
    """Return whether Citus itself can connect from the coordinator: a weaker check, if dblink is missing."""
    async with bounded(conn, ANSWER_TIMEOUT_S, rollback=True):
        await set_local(conn, {"citus.node_connection_timeout": str(CONNECT_TIMEOUT_S * 1000)})
        cursor = await conn.execute("SELECT citus_check_connection_to_node(%s, %s)", [node.host, node.port])
        row = await cursor.fetchone()
    return bool(row and row[0])


def _target(
    conn: Connection, node: NodeAddress, answer_s: float, *, require_auth: str = PROVEN, **settings: str
) -> str:
    """Connection string for the coordinator's libpq.

    Citus itself connects to a registered node by the rule of ``PGREQUIREAUTH``; a cluster that another tool created may
    have ``trust`` or ``cert`` among its nodes. A candidate, and a node that gets passwords, must prove more.
    """
    options = {"statement_timeout": str(round(answer_s * 1000)), "search_path": "pg_catalog", **settings}
    # An older library refuses unknown parameters; no server has a library that is older than itself.
    proven = {"require_auth": require_auth} if conn.info.server_version >= REQUIRE_AUTH_SINCE else {}
    return make_conninfo(
        **proven,
        host=node.host,
        port=node.port,
        dbname=conn.info.dbname,
        user=conn.info.user,
        connect_timeout=CONNECT_TIMEOUT_S,
        application_name="citus-cluster probe",
        options=" ".join(f"-c {name}={value}" for name, value in options.items()),
    )


async def _run(
    conn: Connection,
    node: NodeAddress,
    query: str,
    parameters: Mapping[str, object],
    timeout_s: float,
    settings: Mapping[str, str] | None = None,
) -> object:
    try:
        async with bounded(conn, timeout_s, rollback=True):
            await set_local(conn, {**_QUIET, **(settings or {})})
            await conn.execute(_DECLARE)
            # The queries are constants of this module.
            cursor = await conn.execute(query.encode(), parameters)
            row = await cursor.fetchone()
    except psycopg.errors.UndefinedFile as error:
        raise ProbeUnavailableError from error
    except psycopg.errors.QueryCanceled as error:
        raise _silent(node, f"it did not answer within {round(timeout_s, 1):g} s") from error
    except psycopg.errors.SqlclientUnableToEstablishSqlconnection as error:
        raise _refused(conn, node, error.diag.message_detail or str(error)) from error
    except psycopg.OperationalError as error:
        if conn.closed:
            raise
        raise _silent(node, describe(error)) from error
    return row[0] if row else None


def _silent(node: NodeAddress, reason: str) -> WorkerUnreachableError:
    return WorkerUnreachableError(
        f"{node} does not answer the coordinator: {reason}.",
        hint=node.silence_hint,
    )


def _refused(conn: Connection, node: NodeAddress, text: str) -> WorkerUnreachableError | AuthenticationError:
    reason = tidy(text)
    if gives_password_away(text):
        return UnprovenServerError(
            f"{node} is not a node of this cluster, so the password was not sent: {reason}.",
            hint="Check its host and port. A worker is a PostgreSQL server with the coordinator's password, whose "
            "pg_hba.conf has scram-sha-256 for the coordinator.",
        )
    if "password authentication failed" in text or "no password supplied" in text or "fe_sendauth" in text:
        return AuthenticationError(
            f"{node} refused the coordinator's password of role {conn.info.user!r}: {reason}.",
            hint="All nodes of a cluster share one superuser (--user) and one password. Start the worker with the "
            "coordinator's "
            "password (generated/secrets/superuser_password); existing data keep the password of their first start.",
        )
    if "timeout expired" in text:
        return _silent(node, reason)
    if "could not translate host name" in text:
        return WorkerUnreachableError(
            f"The coordinator cannot connect to {node}, because it cannot resolve the host name {node.host!r}: "
            f"{reason}.",
            hint="Use the name of a service in the coordinator's directory (see citus-cluster status), a "
            "name that the coordinator's server resolves, or an address.",
        )
    where = (
        "docker compose ps" if node.is_service else f"{node.compose_command('ps')}; and that the port is open from here"
    )
    return WorkerUnreachableError(
        f"The coordinator cannot connect to {node}: {reason}.",
        hint=f"Check that it runs, and that the coordinator knows it by this name: {where}",
    )
