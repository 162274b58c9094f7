"""Commands for roles that are stopped half way, and two at once, on real servers."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from sql_role_support import (
    FIRST,
    ROWS,
    SECOND,
    Killed,
    ask,
    create,
    drop,
    listed,
    password_file,
    stop_after,
    works,
)
from sql_servers import COORDINATOR, NASTY_PASSWORD, Servers, on

from citus_cluster.errors import (
    LockedError,
)
from citus_cluster.model.citus.roles import Access
from citus_cluster.model.plan.events import Event, ignore
from citus_cluster.operations.roles import accounts as roles
from citus_cluster.operations.roles import drop as role_drop
from citus_cluster.operations.roles.accounts import RoleResult
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.citus.lock import writer_lock
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

SECRET = NASTY_PASSWORD[::-1]


def test_stopped_while_it_is_narrowed_the_same_command_ends_it(cluster: Servers, credentials: CredentialStore) -> None:
    for steps in range(1, 10):
        create(cluster, credentials, access=Access.WRITE)
        try:
            create(cluster, credentials, emit=stop_after(steps), access=Access.READ)
        except Killed:
            create(cluster, credentials, access=Access.READ)
        else:
            break
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(cluster, credentials, "DELETE FROM items")
    assert steps > 1


@pytest.mark.usefixtures("only_newest")
def test_stopped_while_it_is_widened_what_it_got_is_recorded(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials, access=Access.READ)

    def killed(event: Event) -> None:
        if "granted on" in event.message:
            raise Killed

    with pytest.raises(Killed):
        create(cluster, credentials, emit=killed, access=Access.WRITE)
    record = listed(cluster, credentials)["app"].record
    assert record
    assert record.access is Access.WRITE
    create(cluster, credentials, access=Access.READ)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(cluster, credentials, "DELETE FROM items")


def test_stopped_after_any_step_the_same_command_ends_it(cluster: Servers, credentials: CredentialStore) -> None:
    def stops_before_its_end(steps: int) -> bool:
        try:
            create(cluster, credentials, emit=stop_after(steps), access=Access.CREATE)
        except Killed:
            return True
        return False

    for steps in range(1, 20):
        stopped = stops_before_its_end(steps)
        create(cluster, credentials, access=Access.CREATE)
        works(cluster, credentials)
        assert listed(cluster, credentials)["app"].problems == ()
        try:
            on(cluster, lambda conn, n=steps: role_drop.drop(conn, credentials, "app", stop_after(n)))  # type: ignore[misc]
        except Killed:
            drop(cluster, credentials)
        assert drop(cluster, credentials) == ()
        for node in (COORDINATOR, FIRST, SECOND):
            assert cluster.sql(node.host, ROWS) == []
            assert cluster.sql(node.host, "SELECT FROM pg_roles WHERE rolname = 'app'") == []
        assert not password_file(credentials).parent.exists()
        if not stopped:
            break
    assert steps > 5


def test_two_at_once_wait_for_each_other(cluster: Servers, credentials: CredentialStore) -> None:
    async def body(conn: Connection) -> Sequence[RoleResult]:
        async with await cluster.connect() as other:
            return await asyncio.gather(
                roles.create(conn, credentials, "app", ignore, given=SECRET),
                roles.create(other, credentials, "app", ignore, given=SECRET),
            )

    first, second = on(cluster, body)
    assert (first.changed == ()) != (second.changed == ())
    works(cluster, credentials)


@pytest.mark.usefixtures("only_newest")
def test_another_run_at_work_is_named(
    cluster: Servers, credentials: CredentialStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "WAIT_FOR_LOCK_S", 0.2)

    async def body(conn: Connection) -> None:
        async with await cluster.connect() as other, writer_lock(other, wait_s=1):
            with pytest.raises(LockedError, match="Another run is working"):
                await roles.create(conn, credentials, "app", ignore)

    on(cluster, body)
