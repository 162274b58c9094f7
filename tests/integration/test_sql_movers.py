"""As whom shards are copied, on real servers: no move makes a role that may create tables a superuser."""

import asyncio
import time

import pytest
from sql_role_support import FIRST, SECOND, THIRD, ask, create
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers, on, register

from citus_cluster.errors import NotRegisteredError, RebalanceError, UntrustedCodeError
from citus_cluster.model.citus.rebalance import JobState
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.citus.roles import Access
from citus_cluster.model.plan.events import EventKind, ignore
from citus_cluster.operations.coordinator import lent
from citus_cluster.operations.nodes import drain
from citus_cluster.operations.nodes.registration import add_worker, register_all
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

# Where it runs as the superuser, the role becomes one, on that node.
TRAP = """
CREATE FUNCTION trap(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('is_superuser') = 'on' THEN
        SET LOCAL citus.enable_ddl_propagation = off;
        ALTER ROLE app SUPERUSER;
    END IF;
    RETURN true;
END $$
"""
SUPERUSERS = "SELECT rolsuper FROM pg_roles WHERE rolname = 'app'"


def trapped(cluster: Servers) -> list[bool]:
    return [cluster.sql(node.host, SUPERUSERS) == [(True,)] for node in (COORDINATOR, FIRST, SECOND, THIRD)]


def distributed(name: str, columns: str, *, colocate_with: str = "none") -> tuple[str, ...]:
    count = "shard_count => 4, " if colocate_with == "none" else ""
    return (
        f"CREATE TABLE {name} ({columns})",
        f"SELECT create_distributed_table('{name}', 'id', {count}colocate_with => '{colocate_with}')",
        f"INSERT INTO {name} (id) SELECT generate_series(1, 40)",
    )


def lay_trap(cluster: Servers, credentials: CredentialStore) -> None:
    """Let a role that may create tables make one that runs its function for each row, and those that hide it."""
    create(cluster, credentials, access=Access.CREATE)
    ask(cluster, credentials, TRAP, *distributed("lured", "id bigint PRIMARY KEY, CHECK (trap(id))"))


async def move_everything(conn: Connection, mode: TransferMode) -> JobState:
    job_id = await rebalance.start(conn, RebalanceOptions(mode=mode), ignore)
    assert job_id is not None
    owners = "SELECT DISTINCT owner::text FROM pg_dist_background_task WHERE job_id = %s"
    assert ("app",) in await (await conn.execute(owners, [job_id])).fetchall()
    async with asyncio.timeout(120):
        return (await rebalance_watch.follow(lent(conn), ignore, job_id=job_id)).state


@pytest.mark.parametrize("mode", [TransferMode.BLOCK_WRITES, TransferMode.AUTO])
def test_the_tables_of_a_role_are_copied_as_that_role(
    cluster: Servers, credentials: CredentialStore, mode: TransferMode
) -> None:
    lay_trap(cluster, credentials)
    register(cluster)
    assert on(cluster, lambda conn: move_everything(conn, mode)) is JobState.FINISHED
    held = "SELECT count(*) > 0 FROM citus_shards WHERE table_name = 'lured'::regclass AND nodename = 'citus-worker3'"
    assert cluster.sql(COORDINATOR.host, held) == [(True,)]
    assert ask(cluster, credentials, "SELECT count(*) FROM lured") == [(40,)]
    assert trapped(cluster) == [False] * 4


def test_what_still_runs_as_the_superuser_is_refused_unless_it_is_trusted(
    cluster: Servers, credentials: CredentialStore
) -> None:
    lay_trap(cluster, credentials)
    # Tables of several owners move together, as the superuser.
    cluster.sql(COORDINATOR.host, *distributed("admins", "id bigint PRIMARY KEY", colocate_with="lured"))
    register(cluster)
    jobs = "SELECT max(job_id) FROM pg_dist_background_job"
    before = cluster.sql(COORDINATOR.host, jobs)
    for attempt in (
        lambda conn: rebalance.start(conn, RebalanceOptions(), ignore),
        lambda conn: drain.drain(conn, {"w1": FIRST}, ignore, mode=TransferMode.AUTO, wait=False),
    ):
        with pytest.raises(RebalanceError, match="run as the superuser while shards are copied") as refused:
            on(cluster, attempt)
        assert refused.value.details == (
            "check constraint lured_id_check of lured uses public.trap(bigint), which belongs to role app",
        )
        assert "--trust-functions" in str(refused.value.hint)
    assert cluster.sql(COORDINATOR.host, jobs) == before
    assert cluster.sql(COORDINATOR.host, "SELECT bool_and(shouldhaveshards) FROM pg_dist_node WHERE groupid > 0") == [
        (True,)
    ]

    async def warned(conn: Connection) -> tuple[str, ...]:
        return await rebalance.warnings(conn, await rebalance.plan(conn, RebalanceOptions()))

    (warning,) = on(cluster, warned)
    assert warning.endswith(refused.value.details[0])

    events = Recorder()

    async def trusting(conn: Connection) -> None:
        job_id = await rebalance.start(conn, RebalanceOptions(trust_functions=True), events)
        async with asyncio.timeout(120):
            await rebalance_watch.follow(lent(conn), ignore, job_id=job_id)

    on(cluster, trusting)
    assert refused.value.details[0] in next(one.message for one in events.events if one.kind is EventKind.WARNING)
    assert trapped(cluster)[3], "this is what the attack does, and what --trust-functions risks"
    cluster.sql(THIRD.host, "SET citus.enable_ddl_propagation = off", "ALTER ROLE app NOSUPERUSER")


@pytest.mark.usefixtures("only_newest")
def test_everything_that_a_copy_runs_is_found(cluster: Servers, credentials: CredentialStore) -> None:
    lay_trap(cluster, credentials)
    ask(
        cluster,
        credentials,
        "CREATE FUNCTION twice(bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2'",
        "CREATE DOMAIN positive AS bigint CHECK (trap(VALUE))",
        "CREATE DOMAIN harmless AS bigint",
        "CREATE DOMAIN later AS bigint",
        "CREATE DOMAIN guarded AS bigint CHECK (trap(VALUE))",
        "CREATE DOMAIN nested AS bigint CHECK (VALUE::guarded IS NOT NULL)",
        "CREATE TYPE boxed AS (one positive)",
        # Casts to domains, which no column has.
        *distributed(
            "casts",
            "id bigint PRIMARY KEY, CHECK (id::nested IS NOT NULL), "
            "CHECK (jsonb_populate_record(NULL::boxed, jsonb_build_object('one', id)) IS NOT NULL)",
        ),
        "ALTER TABLE casts FORCE ROW LEVEL SECURITY",
        # What is built in depends on nothing, and can run any statement.
        *distributed("queries", "id bigint PRIMARY KEY, CHECK (query_to_xml('SELECT 1', true, true, '') IS NOT NULL)"),
        # Volatile, and without any effect.
        "ALTER TABLE queries ADD CONSTRAINT chances CHECK (clock_timestamp() > '2000-1-1' AND random() < 2)",
        "ALTER TABLE queries ADD CONSTRAINT ids CHECK (gen_random_uuid() IS NOT NULL AND timeofday() <> '')",
        "ALTER TABLE queries FORCE ROW LEVEL SECURITY",
        # Copied as their owner, whatever they run.
        *distributed("own", "id bigint PRIMARY KEY, p positive"),
        # Copied as the superuser to nodes that lack it.
        "CREATE TABLE listed (id bigint PRIMARY KEY, CHECK (trap(id)))",
        "SELECT create_reference_table('listed')",
    )
    cluster.sql(
        COORDINATOR.host,
        *distributed("first", "id bigint PRIMARY KEY, twofold bigint GENERATED ALWAYS AS (twice(id)) STORED"),
        *distributed(
            "second", "id bigint PRIMARY KEY, many positive[], h harmless, CHECK (id > 0 AND now() > '2000-1-1')"
        ),
        "CREATE INDEX by_twice ON second (twice(id))",
        "CREATE INDEX by_later ON second ((id::later)) WHERE id > 0",
    )
    on(cluster, lambda conn: add_worker(conn, None, THIRD, ignore, timeout_s=20, trust_functions=True))
    with pytest.raises(RebalanceError) as refused:
        on(cluster, lambda conn: rebalance.start(conn, RebalanceOptions(mode=TransferMode.BLOCK_WRITES), ignore))
    role = "which belongs to role app"
    assert refused.value.details == (
        *(
            f"an expression of casts uses type public.{name}, {role}"
            for name in ("boxed", "guarded", "nested", "positive")
        ),
        f"check constraint guarded_check of domain public.guarded of casts uses public.trap(bigint), {role}",
        f"check constraint positive_check of domain public.positive of casts uses public.trap(bigint), {role}",
        f"generated column twofold of first uses public.twice(bigint), {role}",
        f"check constraint listed_id_check of listed uses public.trap(bigint), {role}",
        "check constraint queries_check of queries uses query_to_xml(text,boolean,boolean,text), "
        "which does whatever its caller may do",
        f"a column of second uses type public.harmless, {role}",
        f"a column of second uses type public.positive, {role}",
        f"an expression of second uses type public.later, {role}",
        f"check constraint positive_check of domain public.positive of second uses public.trap(bigint), {role}",
        f"index public.by_twice of second uses public.twice(bigint), {role}",
    )


def test_a_new_worker_waits_while_reference_tables_carry_code(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials, access=Access.CREATE)
    ask(
        cluster,
        credentials,
        TRAP,
        "CREATE TABLE lured (id bigint PRIMARY KEY, CHECK (trap(id)))",
        "SELECT create_reference_table('lured')",
        "INSERT INTO lured VALUES (1)",
    )
    told = "check constraint lured_id_check of lured uses public.trap(bigint), which belongs to role app"
    events = Recorder()
    with pytest.raises(NotRegisteredError) as pending:
        on(
            cluster,
            lambda conn: register_all(conn, COORDINATOR, [*WORKERS], events, deadline=time.monotonic() + 20),
        )
    (reason,) = pending.value.details
    assert told in reason
    assert "citus-cluster nodes add --host citus-worker3 --port 5432 --trust-functions" in reason
    told_of = [event.message for event in events.events if event.step == f"register:{THIRD}"]
    assert len(told_of) == 1, "nothing changes by trying again"
    with pytest.raises(UntrustedCodeError) as refused:
        on(cluster, lambda conn: add_worker(conn, None, THIRD, ignore, timeout_s=20))
    assert refused.value.details == (told,)
    assert "--trust-functions" in str(refused.value.hint)
    on(cluster, lambda conn: add_worker(conn, None, THIRD, ignore, timeout_s=20, trust_functions=True))
    ask(cluster, credentials, *distributed("any_other", "id bigint PRIMARY KEY"))
    assert trapped(cluster) == [False, False, False, True], "this is what the attack does"
    cluster.sql(THIRD.host, "SET citus.enable_ddl_propagation = off", "ALTER ROLE app NOSUPERUSER")


@pytest.mark.usefixtures("only_newest")
def test_an_owner_as_whom_citus_cannot_connect_or_copy_long_is_named(
    cluster: Servers, credentials: CredentialStore
) -> None:
    lay_trap(cluster, credentials)
    register(cluster)
    events = Recorder()

    async def look(conn: Connection) -> None:
        options = RebalanceOptions()
        await rebalance.check(conn, options, await rebalance.plan(conn, options), events)

    cluster.sql(COORDINATOR.host, "ALTER ROLE app SET statement_timeout = '90s'")
    on(cluster, look)
    assert "lured are copied as role app, whose statement_timeout of 90s cancels the copy" in events.text
    cluster.sql(COORDINATOR.host, "ALTER ROLE app NOLOGIN")
    with pytest.raises(RebalanceError, match="lured belong to role app, which may not log in"):
        on(cluster, look)
