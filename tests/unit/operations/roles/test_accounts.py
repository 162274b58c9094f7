"""Roles of a cluster in memory: made, repaired, narrowed, listed and dropped, on every node or on none."""

from pathlib import Path
from typing import Any

import fake_roles
import pytest
import virtual_time
from fake_citus import COORDINATOR, ONE, TWO
from fake_roles import FakeRoles, Role

from citus_cluster.errors import (
    CitusClusterError,
    ImmutableError,
    LockedError,
    RoleError,
    UsageError,
    VerificationError,
    WorkerUnreachableError,
)
from citus_cluster.model.citus.handover import OwnedObject
from citus_cluster.model.citus.roles import Access, Kind, RoleRecord
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.model.pooling import POOLER_ROLE
from citus_cluster.operations.roles import accounts
from citus_cluster.operations.roles import drop as dropping
from citus_cluster.operations.roles.accounts import RoleResult
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.postgres import ConnectionInfo

FILE = "generated/secrets/roles/app_password"


@pytest.fixture
def roles(monkeypatch: pytest.MonkeyPatch) -> FakeRoles:
    return fake_roles.in_place(monkeypatch, ONE, TWO)


class Run:
    def __init__(self, roles: FakeRoles, root: Path | None) -> None:
        self.roles = roles
        self.conn = roles.cluster.connection
        self.store = CredentialStore(ConnectionInfo("127.0.0.1", 5434, "postgres", "postgres", "super"), root)
        self.events: list[Event] = []

    def create(self, name: str = "app", **more: Any) -> RoleResult:
        return virtual_time.run(accounts.create(self.conn, self.store, name, self.events.append, **more))

    def set_password(self, **more: Any) -> RoleResult:
        return virtual_time.run(accounts.set_password(self.conn, self.store, "app", self.events.append, **more))

    def drop(self, name: str = "app", **more: Any) -> tuple[str, ...]:
        return virtual_time.run(dropping.drop(self.conn, self.store, name, self.events.append, **more))

    def list(self) -> accounts.RoleList:
        return virtual_time.run(accounts.list_roles(self.conn, self.store))


@pytest.fixture
def run(roles: FakeRoles, tmp_path: Path) -> Run:
    return Run(roles, tmp_path)


def password_in(root: Path) -> str:
    return (root / FILE).read_text()


# Made and repaired


def test_a_new_role_may_write_in_public_on_every_node_and_its_password_is_kept(run: Run, tmp_path: Path) -> None:
    made = run.create()
    assert run.roles.done[0] == "create app"
    role = run.roles.roles["app"]
    assert (role.may_connect, role.granted[Kind.SCHEMAS, "public"]) == (True, frozenset({"USAGE"}))
    assert role.granted[Kind.TABLES, "public"] == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert {node: row["app"] for node, row in run.roles.rows.items()} == dict.fromkeys(
        (COORDINATOR, ONE, TWO), role.password
    )
    assert password_in(tmp_path) == role.password and len(role.password) == 32
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert made.record == RoleRecord("app", Access.WRITE, ("public",), {})
    assert made.password_file == FILE
    assert (made.connection.user, made.connection.password) == ("app", role.password)
    assert made.changed[:2] == (f"password kept in {FILE}", "role app created on 3 nodes")
    assert "credentials of role app copied to citus-worker2:5432" in made.changed
    assert made.limits == {"connections": None, "statement_timeout": "15min", "temp_file_limit": "10GB"}


def test_making_it_again_changes_nothing_and_says_so(run: Run) -> None:
    run.create()
    before = list(run.roles.done)
    again = run.create()
    assert (again.changed, run.roles.done) == ((), before)
    assert (run.events[-1].kind, run.events[-1].message) == (EventKind.SKIPPED, "role app is up to date on 3 nodes")


def test_a_role_gets_back_what_it_lacks(run: Run, tmp_path: Path) -> None:
    run.create()
    password = run.roles.roles["app"].password
    run.roles.rows[TWO].clear()
    run.roles.roles["app"].granted.clear()
    run.roles.roles["app"].may_connect = False
    (tmp_path / FILE).unlink()
    changed = run.create().changed
    assert run.roles.rows[TWO] == {"app": password}
    assert password_in(tmp_path) == password, "the coordinator's own row has it"
    assert "CONNECT granted on database postgres" in changed
    assert "write granted on 1 schema, 1 table" in changed
    assert "credentials of role app copied to citus-worker1:5432" not in changed


def test_more_schemas_are_added_and_none_is_taken(run: Run) -> None:
    run.create()
    assert run.create(schemas=["shop"]).record.schemas == ("public", "shop")
    assert run.create().record.schemas == ("public", "shop")


def test_a_narrower_access_is_taken_back_and_a_wider_one_is_given(run: Run) -> None:
    run.create(access=Access.CREATE)
    assert "CREATE" in run.roles.roles["app"].granted[Kind.SCHEMAS, "public"]
    changed = run.create(access=Access.READ).changed
    assert "privileges beyond read revoked" in changed
    assert run.roles.roles["app"].granted == {
        (Kind.SCHEMAS, "public"): {"USAGE"},
        (Kind.TABLES, "public"): {"SELECT"},
    }
    assert run.roles.records["app"].access is Access.READ
    changed = run.create(access=Access.WRITE).changed
    assert "role app: write in public" in changed
    assert not any("revoked" in line for line in changed)


def test_what_is_taken_back_is_recorded_last_and_what_is_given_first(run: Run) -> None:
    """A run that is killed in between leaves a record from which the next one goes on."""
    run.create(access=Access.CREATE)
    run.roles.done.clear()
    run.create(access=Access.READ)
    assert run.roles.done.index("revoke from app") < run.roles.done.index("record app: read")
    run.roles.done.clear()
    run.create(access=Access.WRITE)
    assert run.roles.done.index("record app: write") < run.roles.done.index("grant to app")


def test_future_tables_of_those_who_make_them_are_for_all_others(run: Run) -> None:
    run.create("maker", access=Access.CREATE)
    changed = run.create().changed
    assert "privileges on future tables of maker, postgres granted" in changed
    assert {one.role for one in run.roles.defaults if one.creator == "maker"} == {"app"}


# What is refused


@pytest.mark.parametrize(
    ("name", "more"),
    [("App", {}), ("postgres", {}), ("app", {"schemas": ["pg_catalog"]}), ("app", {"limits": ["connections=many"]})],
)
def test_names_and_values_that_cannot_be_are_refused_before_the_lock(run: Run, name: str, more: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run.create(name, **more)
    assert (run.roles.cluster.lock_waits, run.events) == ([], [])


def test_a_schema_that_does_not_exist_makes_no_role(run: Run) -> None:
    with pytest.raises(UsageError, match="Schema 'nowhere' does not exist in database 'postgres'"):
        run.create(schemas=["nowhere"])
    assert run.roles.roles == {}


def test_a_role_is_changed_only_while_every_node_answers(run: Run) -> None:
    run.roles.cluster.servers[TWO].silence = "it is paused"
    for work in (run.create, run.drop, run.set_password):
        with pytest.raises(WorkerUnreachableError, match="nothing was changed: citus-worker2:5432") as caught:
            work()
        assert len(caught.value.details) == 1
    assert run.roles.done == []


def test_another_run_is_not_disturbed(run: Run) -> None:
    run.roles.cluster.locked_by = "session 7"
    for work in (run.create, run.drop, run.set_password):
        with pytest.raises(LockedError, match="session 7"):
            work()


@pytest.mark.parametrize(
    ("role", "told"),
    [
        (Role("x", is_superuser=True), "is a superuser"),
        (Role("x", can_login=False), "may not log in"),
        (Role("x"), "was not created by citus-cluster; it was not changed"),
    ],
)
def test_a_role_of_others_is_left_alone(run: Run, role: Role, told: str) -> None:
    run.roles.roles["app"] = role
    with pytest.raises(RoleError, match=told):
        run.create()
    assert run.roles.done == []


def test_who_knows_the_password_of_a_role_may_have_it_managed(run: Run) -> None:
    run.roles.roles["app"] = Role("secret of old")
    with pytest.raises(RoleError, match="was not created"):
        run.create(given="another secret")
    made = run.create(given="secret of old")
    assert made.connection.password == "secret of old"
    assert made.limits is None, "its limits are not ours to set"
    assert run.roles.rows[TWO] == {"app": "secret of old"}


def test_a_role_that_is_missing_on_a_node_is_not_changed(run: Run) -> None:
    run.create()
    run.roles.roles["app"].lacking = {TWO}
    run.roles.done.clear()
    for work in (run.create, run.drop, run.set_password):
        with pytest.raises(RoleError, match="exists on the coordinator, but not on citus-worker2:5432") as caught:
            work()
        assert "citus_activate_node('citus-worker2', 5432)" in (caught.value.hint or "")
    assert run.roles.done == []


def test_a_password_that_differs_is_refused_and_an_unknown_one_asked_for(run: Run, tmp_path: Path) -> None:
    run.create()
    with pytest.raises(ImmutableError, match="the given password is not its password"):
        run.create(given="another secret")
    run.roles.roles["app"].password = "changed by SQL"
    with pytest.raises(RoleError, match="The password of role 'app' is unknown here"):
        run.create()
    assert run.create(given="changed by SQL").changed
    assert password_in(tmp_path) == "changed by SQL"


def test_without_a_directory_a_password_is_given_and_kept_nowhere(roles: FakeRoles) -> None:
    run = Run(roles, None)
    with pytest.raises(UsageError, match="cannot be kept without the cluster's directory"):
        run.create()
    assert roles.roles == {}
    made = run.create(given="secret of mine")
    assert (made.password_file, roles.roles["app"].password) == (None, "secret of mine")


def test_a_role_that_cannot_log_in_afterwards_is_a_failure(run: Run) -> None:
    run.roles.unreachable = {TWO}
    with pytest.raises(VerificationError, match="cannot connect to citus-worker2:5432 as role 'app'") as caught:
        run.create()
    assert caught.value.details == ("citus-worker2:5432",)


# Limits


def test_limits_are_set_where_they_differ_and_sessions_only_on_the_coordinator(run: Run) -> None:
    made = run.create(limits=["connections=5", "statement_timeout=none"])
    role = run.roles.roles["app"]
    assert role.connections == {COORDINATOR: 5}
    assert role.config == {"temp_file_limit": "10GB"}
    assert made.limits == {"connections": "5", "statement_timeout": None, "temp_file_limit": "10GB"}
    role.connections[ONE] = 5  # as Citus copies it
    run.roles.done.clear()
    assert run.create().changed == ("limits of role app: 5 sessions on the coordinator, temp_file_limit 10GB",)
    assert run.roles.done == ["no session limit on citus-worker1"]
    run.create(limits=["connections=none"])
    assert role.connections == {COORDINATOR: -1}


def test_limits_that_can_break_a_rebalance_are_warned_of(run: Run) -> None:
    run.create(access=Access.CREATE, limits=["statement_timeout=5s"])
    (warning,) = [event for event in run.events if event.kind is EventKind.WARNING]
    assert warning.step == "limits:app" and "a rebalance or drain of large tables may fail" in warning.message


# Another password


@pytest.mark.parametrize("given", [None, "a secret of mine"])
def test_another_password_reaches_every_node_and_the_file(run: Run, tmp_path: Path, given: str | None) -> None:
    run.create()
    before = run.roles.roles["app"].password
    done = run.set_password(given=given)
    password = run.roles.roles["app"].password
    assert password != before and (given is None or password == given)
    assert {row["app"] for row in run.roles.rows.values()} == {password}
    assert password_in(tmp_path) == password
    assert done.changed[0] == "password of role app changed on 3 nodes"


@pytest.mark.parametrize("record", [True, False])
def test_only_a_role_of_ours_gets_another_password(run: Run, record: bool) -> None:
    if record:
        run.roles.records["app"] = RoleRecord("app", Access.WRITE, ("public",))
    else:
        run.roles.roles["app"] = Role("x")
    with pytest.raises(RoleError, match="does not exist, or was not created by citus-cluster"):
        run.set_password()


# Listed


def test_the_list_has_what_each_role_lacks_on_which_node(run: Run, tmp_path: Path) -> None:
    run.create()
    (found,) = run.list().roles
    assert (found.name, found.problems, found.password_file) == ("app", (), FILE)
    assert found.limits["statement_timeout"] == "15min"
    run.roles.rows[ONE].clear()
    run.roles.rows[TWO]["app"] = "an old one"
    run.roles.roles["app"].granted.pop((Kind.TABLES, "public"))
    run.roles.roles["app"].connections[TWO] = 5
    (tmp_path / FILE).unlink()
    (found,) = run.list().roles
    assert found.missing_on == (ONE, TWO)
    assert (found.ungranted, found.forgotten, found.unlimited_on) == (("public.orders",), True, (TWO,))


def test_the_list_leaves_out_who_is_nobodys_role(run: Run) -> None:
    run.roles.roles = {
        "postgres": Role("x", is_superuser=True),
        "group": Role("x", can_login=False),
        POOLER_ROLE: Role("x"),
        "theirs": Role("x"),
    }
    run.roles.records["gone"] = RoleRecord("gone", Access.READ, ("public",))
    assert {role.name for role in run.list().roles} == {"gone", "theirs", POOLER_ROLE}, "a role of that name by SQL"
    run.roles.has_pooler = True
    gone, theirs = run.list().roles
    assert (gone.exists, gone.problems) == (False, ("it is recorded, but the role does not exist",))
    assert (theirs.record, theirs.missing_on) == (None, (COORDINATOR, ONE, TWO))


def test_a_node_that_does_not_answer_is_named_beside_the_list(run: Run) -> None:
    run.create()
    run.roles.cluster.servers[TWO].silence = "it is paused"
    found = run.list()
    assert [line[:18] for line in found.silent] == ["citus-worker2:5432"]
    assert found.roles[0].missing_on == ()


# Dropped


def test_a_role_is_dropped_with_its_rows_and_its_password(run: Run, tmp_path: Path) -> None:
    run.create()
    run.roles.done.clear()
    changed = run.drop()
    assert run.roles.done == ["no login for app", "drop app"]
    assert changed == (
        "role app dropped on 3 nodes",
        *(f"credentials of role app removed from {node}" for node in (COORDINATOR, ONE, TWO)),
        f"{FILE} removed",
    )
    assert not (tmp_path / FILE).exists()
    assert run.drop() == ()
    assert run.events[-1].message == "role app does not exist: nothing to do"


def test_a_role_that_somebody_dropped_is_forgotten(run: Run) -> None:
    run.create()
    del run.roles.roles["app"]
    assert "record of role app removed" in run.drop()
    assert "app" not in run.roles.records


def test_open_sessions_keep_a_role_unless_they_are_ended(run: Run) -> None:
    run.create()
    run.roles.roles["app"].sessions = {COORDINATOR: 2, TWO: 1}
    run.roles.done.clear()
    with pytest.raises(RoleError, match="open sessions: 2 on citus-coordinator:5432, 1 on citus-worker2:5432"):
        run.drop()
    assert run.roles.done == []
    assert run.drop(disconnect=True)[0] == "ended 3 sessions of role app"
    assert run.roles.done[0] == "no login for app", "no new session begins meanwhile"


def test_sessions_that_do_not_end_are_given_up_and_the_way_back_is_said(run: Run) -> None:
    run.create()
    run.roles.roles["app"].sessions, run.roles.stubborn = {TWO: 1}, True
    with pytest.raises(RoleError, match="on citus-worker2:5432 do not end") as caught:
        run.drop(disconnect=True)
    assert 'ALTER ROLE "app" LOGIN' in (caught.value.hint or "")
    assert "app" in run.roles.roles


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda roles: roles.records.clear(), "was not created by citus-cluster"),
        (lambda roles: setattr(roles, "databases", ("other",)), "in other databases: other"),
    ],
)
def test_what_keeps_a_role_is_said_before_anything_changes(run: Run, break_it: Any, told: str) -> None:
    run.create()
    run.roles.done.clear()
    break_it(run.roles)
    with pytest.raises(RoleError, match=told):
        run.drop()
    assert run.roles.done == []


def test_an_owner_role_is_no_role_to_drop(run: Run) -> None:
    run.roles.roles["owner_of_shop"] = Role("x")
    run.roles.owner_roles = {"owner_of_shop": "shop"}
    with pytest.raises(RoleError, match="owns objects of dropped roles in schema 'shop'"):
        run.drop("owner_of_shop")


def test_a_role_that_owns_something_is_not_dropped_with_it(run: Run) -> None:
    run.create()
    run.roles.owned["app"] = tuple(OwnedObject("table", "public", f"public.t{n}") for n in range(12))
    run.roles.done.clear()
    with pytest.raises(RoleError, match="owns 12 objects; it was not dropped") as caught:
        run.drop()
    assert caught.value.details[-1] == "and 2 more" and len(caught.value.details) == 11
    assert "roles drop app --reassign" in (caught.value.hint or "")
    assert run.roles.done == []


def test_an_error_after_the_login_was_forbidden_says_how_to_allow_it_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.create()

    async def fail(*_: object, **__: object) -> None:
        raise CitusClusterError("It failed.", hint="Look.")

    monkeypatch.setattr("citus_cluster.runtime.citus.roles.drop_role", fail)
    with pytest.raises(CitusClusterError, match="It failed") as caught:
        run.drop()
    assert caught.value.hint and caught.value.hint.startswith("Look. The role may no longer log in.")
