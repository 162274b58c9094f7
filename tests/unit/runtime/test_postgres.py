"""DSNs: any printable character, never a password where it does not belong."""

import asyncio
import string

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from citus_cluster.errors import AuthenticationError, RefusedError, UnreachableError, UnsupportedError, UsageError
from citus_cluster.runtime.postgres import ConnectionInfo, explain_refusal, translated

NASTY = string.punctuation + " %41 \\' ñ€😀 x"


@pytest.mark.parametrize("host", ["localhost", "10.0.0.1", "fd00::1", "citus-coordinator"])
def test_every_printable_character_survives_the_uri(host: str) -> None:
    info = ConnectionInfo(host, 5434, NASTY, "my db/ñ?", NASTY, (("sslmode", "require"), ("sslrootcert", NASTY)))
    assert ConnectionInfo.from_dsn(info.dsn(masked=False)) == info
    values = conninfo_to_dict(info.dsn(masked=False))
    assert (values["password"], values["user"], values["dbname"], values["host"]) == (NASTY, NASTY, "my db/ñ?", host)


def test_the_password_is_masked_unless_asked_for() -> None:
    info = ConnectionInfo("localhost", 5434, "postgres", "postgres", "sesame")
    assert info.dsn() == "postgresql://postgres:****@localhost:5434/postgres"
    assert "sesame" not in f"{info!r} {info} {info.dsn()}"


def test_defaults_and_key_value_form() -> None:
    assert ConnectionInfo.from_dsn("postgresql://") == ConnectionInfo("localhost", 5432, "postgres", "postgres", "")
    assert ConnectionInfo.from_dsn(r"host=db user=app password='it\'s \\ x'") == ConnectionInfo(
        "db", 5432, "app", "app", r"it's \ x"
    )


@pytest.mark.parametrize(
    "text",
    [
        "sesame",
        "postgresql://u:sesame@h:notaport/db",
        "postgresql://u:sesame@h:99999/db",
        "postgresql://u:sesame@h,i/db",
        "postgresql://u:sesame@h/db?options=-csomething",
        "postgresql://u:sesame%zz@h/db",
    ],
)
def test_a_bad_dsn_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ConnectionInfo.from_dsn(text)
    assert "sesame" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ('FATAL:  password authentication failed for user "postgres"', AuthenticationError, "superuser_password"),
        ("connection failed: FATAL:  the database system is starting up", UnreachableError, "Try again"),
        ("connection failed: Connection refused", UnreachableError, "docker compose ps"),
        ('FATAL:  database "shop" does not exist', UnreachableError, "database"),
        ("FATAL:  sorry, too many clients already", UnreachableError, "max_connections"),
        ("FATAL:  could not write init file: No space left on device", UnreachableError, "disk is full"),
        ("[Errno -2] Name or service not known", UnreachableError, "start it: citus-cluster up"),
        ('FATAL:  role "app" is not permitted to log in', UnreachableError, "ALTER ROLE ... LOGIN"),
        ('FATAL:  permission denied for database "shop"', UnreachableError, "GRANT CONNECT"),
    ],
)
def test_refusals_are_explained(text: str, kind: type[UnreachableError], hint: str) -> None:
    error = explain_refusal(ConnectionInfo("h", 1, "postgres", "d", "sesame"), text)
    assert type(error) is kind
    assert hint in str(error.hint)
    assert "sesame" not in f"{error} {error.hint}"


@pytest.mark.parametrize("kind", [psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable])
def test_what_the_server_lacks_is_no_failure_of_ours(kind: type[psycopg.Error]) -> None:
    async def ask() -> None:
        async with translated("reading the locks"):
            raise kind("function citus_locks() does not exist")

    with pytest.raises(UnsupportedError) as caught:
        asyncio.run(ask())
    assert (caught.value.code, caught.value.http_status) == ("not-supported", 503)
    assert "while reading the locks: function citus_locks() does not exist" in caught.value.message
    assert "citus-cluster cluster show lists the versions" in str(caught.value.hint)


@pytest.mark.parametrize(
    "kind", [psycopg.errors.FeatureNotSupported, psycopg.errors.InternalError_, psycopg.errors.InsufficientPrivilege]
)
def test_what_the_server_refuses_is_no_failure_of_ours(kind: type[psycopg.Error]) -> None:
    async def ask() -> None:
        async with translated("moving the shard"):
            raise kind("cannot move it")

    with pytest.raises(RefusedError) as caught:
        asyncio.run(ask())
    assert caught.value.http_status == 409
    assert caught.value.message.endswith("while moving the shard: cannot move it")
