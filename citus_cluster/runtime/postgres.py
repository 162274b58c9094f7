"""Connections to PostgreSQL: the address of a server, how to connect, and the meaning of its errors.

The queries belong to ``citus`` and its sister modules.
"""

import asyncio
import math
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from citus_cluster.errors import (
    AuthenticationError,
    LockedError,
    MismatchError,
    RefusedError,
    UnprovenServerError,
    UnreachableError,
    UnsupportedError,
    UsageError,
)
from citus_cluster.model.citus.extension import OUTDATED, UPDATE_HINT
from citus_cluster.runtime import libpq

Connection = psycopg.AsyncConnection[TupleRow]

MASK = "****"
_HARMLESS_KEYS = frozenset({"application_name", "connect_timeout"})
_PLACE_KEYS = frozenset({"host", "port", "user", "dbname", "password"})
_SECURITY_KEYS = frozenset(
    {
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslsni", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "channel_binding", "require_auth", "passfile"),
    }
)
_LACKING_HINT = (
    "Check that this is the coordinator, and that the extension citus exists in this database. If both are true, its "
    "Citus or PostgreSQL is too old: citus-cluster cluster show lists the versions and what they can do; Citus 13.2 "
    "and 14.0 are tested. To update, change the image in cluster.yaml, then run citus-cluster up."
)
# A server that is stopped during a query never answers; the client then gives up.
_CLIENT_GRACE_S = 10.0


@dataclass(frozen=True)
class ConnectionInfo:
    """The address of a database, and the user. The password is never shown in a repr.

    ``options`` are the DSN's libpq parameters of encryption and authentication, by name. If they do not include
    ``require_auth``, the field ``require_auth`` applies: our own servers prove that they know the password.
    """

    host: str
    port: int
    user: str
    database: str
    password: str = field(repr=False)
    options: tuple[tuple[str, str], ...] = ()
    require_auth: str = field(default=libpq.PROVEN, compare=False)

    def dsn(self, masked: bool = True) -> str:
        """Return the URI for people and psql. ``masked`` replaces the password with asterisks."""
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        secret = MASK if masked else quote(self.password, safe="")
        credentials = quote(self.user, safe="") + (f":{secret}" if self.password else "")
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in self.options)
        place = f"{host}:{self.port}/{quote(self.database, safe='')}"
        return f"postgresql://{credentials}@{place}" + (f"?{query}" if query else "")

    def __str__(self) -> str:
        return self.dsn()

    @classmethod
    def from_dsn(cls, text: str) -> "ConnectionInfo":
        """Read a URI or a ``key=value`` string in libpq's syntax.

        A missing host is ``localhost``, a missing port 5432, a missing user ``postgres``, a missing database the user's
        name. Raises UsageError, whose message never repeats the text, because it may contain a password.
        """
        values = _parse_dsn(text)
        user = values.get("user") or "postgres"
        return cls(
            host=values.get("host") or "localhost",
            port=_parse_port(values.get("port") or "5432"),
            user=user,
            database=values.get("dbname") or user,
            password=values.get("password") or "",
            options=tuple(sorted((name, value) for name, value in values.items() if name in _SECURITY_KEYS)),
            require_auth=libpq.NOT_IN_CLEAR,
        )


def _parse_dsn(text: str) -> dict[str, str]:
    try:
        values = {key: str(value) for key, value in conninfo_to_dict(text).items() if value is not None}
    except psycopg.ProgrammingError:
        raise UsageError(
            "The DSN cannot be read.",
            hint="Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with characters such as @ : / # % of the "
            "password percent-encoded (%40 for @).",
        ) from None
    unknown = sorted(set(values) - _PLACE_KEYS - _SECURITY_KEYS - _HARMLESS_KEYS)
    if unknown:
        raise UsageError(f"The DSN has settings that are not supported here: {', '.join(unknown)}.")
    if "," in values.get("host", ""):
        raise UsageError("The DSN names several hosts; name only the coordinator.")
    return values


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise UsageError(f"The DSN's port is {text!r}; it must be a number from 1 to 65535.")
    return int(text)


async def connect(info: ConnectionInfo, *, timeout_s: float, application_name: str = "citus-cluster") -> Connection:
    """Open a connection in autocommit mode, only with the parameters of ``info`` (see ``libpq``).

    Raises AuthenticationError for a refused role or password, UnprovenServerError (a subclass) for a server that asks
    for the password in an insecure way, UnreachableError for all other reasons (refused, unknown name, starting up, too
    many clients, no answer in time).
    """
    given = {
        "host": info.host,
        "port": str(info.port),
        "user": info.user,
        "dbname": info.database,
        "application_name": application_name,
        # libpq counts whole seconds, and rounds 1 up to 2; the surrounding block has the exact limit.
        "connect_timeout": str(max(2, math.ceil(timeout_s))),
        "require_auth": info.require_auth,
        **({"password": info.password} if info.password else {}),
        **dict(info.options),
    }
    parameters: dict[str, Any] = libpq.explicit(given)
    try:
        async with asyncio.timeout(timeout_s):
            return await psycopg.AsyncConnection.connect(autocommit=True, **parameters)
    except TimeoutError:
        raise UnreachableError(
            f"{info.dsn()} did not answer within {timeout_s:g} s.",
            hint="Check whether the server is paused, overloaded, or behind a firewall, and see its log.",
        ) from None
    except psycopg.OperationalError as error:
        raise explain_refusal(info, str(error)) from error
    except UnicodeError as error:  # for a name with an empty or too long part, before any resolver is asked
        raise UnreachableError(
            f"{info.host!r} is not a host name.", hint="Correct the name, or use an address."
        ) from error


def explain_refusal(info: ConnectionInfo, text: str) -> UnreachableError:
    """Turn libpq's message about a failed connection into an error with a hint."""
    reason = tidy(text)
    if gives_password_away(text):
        return UnprovenServerError(
            f"{info.dsn()} is not trusted, and was not sent the password: {reason}",
            hint=f"Check whether another program listens on port {info.port} (sudo ss -ltnp; docker compose ps), and "
            "whether "
            "pg_hba.conf was changed: its method must be scram-sha-256."
            + ("" if info.require_auth == libpq.PROVEN else " To accept another method, add ?require_auth=… to --dsn."),
        )
    if re.search(
        r"password authentication failed|no password supplied|SCRAM|SASL authentication failed|role .* does not exist",
        text,
    ):
        return AuthenticationError(
            f"{info.dsn()} refused the password of role {info.user!r}: {reason}",
            hint="Use the password with which the data directory was created. It is in generated/secrets/ "
            "of the directory that created the cluster (superuser_password, pg14_password for the PostgreSQL 14 pair).",
        )
    return UnreachableError(f"Cannot connect to {info.dsn()}: {reason}", hint=_hint_for(text, info.host))


def gives_password_away(text: str) -> bool:
    """Return whether libpq disconnected because of the server's authentication method (``require_auth``)."""
    return "authentication method requirement" in text


def _hint_for(text: str, host: str) -> str:
    if re.search(r"starting up|not yet accepting connections|recovery", text):
        return "The server is starting. Try again shortly."
    if "No space left on device" in text:
        return "The server's disk is full. Free some space there: docker system df shows what uses it."
    if "too many clients" in text or "remaining connection slots" in text:
        return "All connections are in use. Close some, or raise max_connections."
    if re.search(r"database .* does not exist", text):
        return "Name the cluster's database."
    if "not permitted to log in" in text:
        return (
            "Login was revoked (NOLOGIN), or a drop of the role was interrupted. To allow it again: ALTER ROLE ... "
            "LOGIN;"
        )
    if re.search(r"permission denied for database", text):
        return "The role has no CONNECT privilege. Grant it as the superuser: GRANT CONNECT ON DATABASE ... TO ...;"
    if re.search(r"resolve|Name or service not known|name resolution|getaddrinfo", text):
        # Docker's resolver forgets the name of a container as soon as it stops.
        return (
            f"If {host!r} is a container, start it: citus-cluster up. Otherwise correct the name, or use an address: "
            "it cannot be resolved."
        )
    return (
        "Check that the server runs (docker compose ps; citus-cluster up starts it), and that its host and port "
        "are correct."
    )


def tidy(text: str) -> str:
    """Return one line of a libpq message, without repetitions for several addresses."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return re.sub(r"^connection failed: |^connection to server .*? failed: ", "", lines[0]) if lines else "no reason"


@asynccontextmanager
async def bounded(
    conn: Connection,
    timeout_s: float,
    *,
    lock_timeout_s: float | None = None,
    whole_s: float | None = None,
    rollback: bool = False,
) -> AsyncIterator[None]:
    """Open a transaction with a time limit for each statement and each lock.

    Functions and tables are found only in ``pg_catalog``: otherwise an ordinary role that may create in ``public``
    could create a function there that matches a call better, and the superuser would run it. ``jit`` is off, because
    PostgreSQL overestimates the cost of recursion, and may compile for seconds a query that runs for milliseconds.
    ``rollback`` rolls back at the end, even on success. The whole block ends after ``whole_s`` (twice ``timeout_s`` and
    some grace): a server that was paused never ends a statement by itself, so the connection is then cut, which raises
    OperationalError.
    """
    lock_timeout_s = timeout_s if lock_timeout_s is None else lock_timeout_s
    whole_s = 2 * timeout_s + _CLIENT_GRACE_S if whole_s is None else whole_s
    watch = asyncio.get_running_loop().call_later(whole_s, _cut, conn)
    try:
        async with conn.transaction(force_rollback=rollback):
            await conn.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true), "
                "set_config('search_path', 'pg_catalog', true), set_config('jit', 'off', true)",
                [_milliseconds(timeout_s), _milliseconds(lock_timeout_s)],
            )
            yield
    finally:
        watch.cancel()


@asynccontextmanager
async def bounded_outside(conn: Connection, timeout_s: float) -> AsyncIterator[None]:
    """Like :func:`bounded`, for statements that must not run in a transaction: each commits separately."""
    watch = asyncio.get_running_loop().call_later(timeout_s + _CLIENT_GRACE_S, _cut, conn)
    try:
        await conn.execute(
            "SELECT set_config('statement_timeout', %s, false), set_config('search_path', 'pg_catalog', false)",
            [_milliseconds(timeout_s)],
        )
        yield
    finally:
        watch.cancel()
        if not conn.closed:
            await conn.execute("RESET statement_timeout")
            await conn.execute("RESET search_path")


async def bounded_rows(conn: Connection, query: LiteralString, timeout_s: float) -> list[TupleRow]:
    """Return the rows of a query without parameters, like :func:`bounded`, but in one round trip instead of four.

    The server runs statements that arrive together in one transaction. ``conn`` must not be in one.
    """
    watch = asyncio.get_running_loop().call_later(2 * timeout_s + _CLIENT_GRACE_S, _cut, conn)
    limit = _milliseconds(timeout_s)
    try:
        cursor = await conn.execute(
            f"SELECT set_config('statement_timeout', '{limit}', true), set_config('lock_timeout', '{limit}', true), "
            f"set_config('search_path', 'pg_catalog', true), set_config('jit', 'off', true); {query}".encode(),
            # Only single statements can be prepared, which the driver does after some executions.
            prepare=False,
        )
        cursor.nextset()
        return await cursor.fetchall()
    finally:
        watch.cancel()


def _cut(conn: Connection) -> None:
    if conn.closed:
        return
    with socket.socket(fileno=os.dup(conn.fileno())) as line, suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _milliseconds(seconds: float) -> str:
    # 0 would mean "no limit".
    return str(max(1, round(seconds * 1000)))


def bare_name(regclass: str) -> str:
    """Return the name of a table without ``public``: with only ``pg_catalog`` in the path, names include the schema."""
    return regclass.removeprefix("public.")


async def set_local(conn: Connection, settings: dict[str, str]) -> None:
    """Set server settings until the end of the transaction; settings that the server does not have are skipped.

    ``pg_settings`` does not list all of them: extensions can hide theirs (``GUC_NO_SHOW_ALL``).
    """
    await conn.execute(
        "SELECT set_config(name, value, true) FROM unnest(%s::text[], %s::text[]) AS wanted(name, value) "
        "WHERE current_setting(name, true) IS NOT NULL",
        [list(settings), list(settings.values())],
    )


def describe(error: psycopg.Error) -> str:
    """Return one line of a server's error: the message, and the detail if there is one."""
    primary = error.diag.message_primary
    if primary is None:
        return tidy(str(error))
    detail = error.diag.message_detail
    return tidy(primary) + (f" ({tidy(detail)})" if detail else "")


@asynccontextmanager
async def translated(doing: str, *, server: str = "The coordinator") -> AsyncIterator[None]:
    """Turn the driver's errors into ours. ``doing`` completes "while ...", such as ``reading the node list``."""
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise UnreachableError(
            f"{server} did not answer in time while {doing}.",
            hint="A node may be paused or overloaded: docker compose ps, and the logs of the nodes.",
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise LockedError(
            f"Another session held a required lock while {doing}.",
            hint="A rebalance or a schema change may be running. Try again when it is done.",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise RefusedError(
            f"Permission denied while {doing}: {describe(error)}", hint="Connect as the cluster's superuser."
        ) from error
    except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable) as error:
        raise UnsupportedError(
            f"{server} lacks a function or a table while {doing}: {describe(error)}", hint=_LACKING_HINT
        ) from error
    except psycopg.OperationalError as error:
        raise UnreachableError(
            f"The connection failed while {doing}: {describe(error)}", hint="Run the command again, which continues."
        ) from error
    except psycopg.Error as error:
        if OUTDATED in str(error):
            raise MismatchError(
                f"Citus refused the request while {doing}: {describe(error)}", hint=UPDATE_HINT
            ) from error
        hint = None
        if "operation is not allowed on this node" in str(error):
            hint = "This is a worker. Give the coordinator's connection string with --dsn, or run in its directory."
        raise RefusedError(f"PostgreSQL refused the request while {doing}: {describe(error)}", hint=hint) from error
