import pytest
from psycopg.conninfo import conninfo_to_dict

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.roles import (
    Access,
    Defaults,
    Holding,
    Kind,
    RoleRecord,
    RoleStatus,
    authinfo,
    excess_on_objects,
    merged,
    missing_on_objects,
    narrowed,
    role_problem,
    schema_problem,
    wanted_defaults,
)

APP = RoleRecord("app", Access.WRITE, ("public",))
TABLE = Holding(Kind.TABLES, "public", "items", frozenset({"SELECT", "INSERT", "TRUNCATE"}))
SEQUENCE = Holding(Kind.SEQUENCES, "public", "items_id_seq", frozenset())
SCHEMA = Holding(Kind.SCHEMAS, "public", "public", frozenset({"USAGE", "CREATE"}))
OWN = Holding(Kind.TABLES, "public", "mine", frozenset(), owned=True)


def test_each_access_holds_what_the_ones_before_it_hold() -> None:
    levels = list(Access)
    for kind in Kind:
        wanted = [kind.wanted(access) for access in levels]
        assert wanted[0] <= wanted[1] <= wanted[2]
    assert [[one.covers(other) for other in levels] for one in levels] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@pytest.mark.parametrize(
    ("access", "schemas", "told"),
    [
        (Access.CREATE, ("public", "shop"), APP),
        (Access.WRITE, ("public", "shop"), APP),
        (Access.READ, ("public", "shop"), RoleRecord("app", Access.READ, ("public",))),
    ],
)
def test_what_is_taken_back_comes_before_what_is_given(
    access: Access, schemas: tuple[str, ...], told: RoleRecord
) -> None:
    assert narrowed(APP, RoleRecord("app", access, schemas)) == told


def test_what_is_missing_and_what_is_too_much() -> None:
    here = [TABLE, SEQUENCE, SCHEMA, OWN]
    assert missing_on_objects(APP, here) == {TABLE: {"UPDATE", "DELETE"}, SEQUENCE: {"USAGE", "SELECT"}}
    # TRUNCATE was granted by hand, and is nobody's access.
    assert excess_on_objects(APP, here) == {SCHEMA: {"CREATE"}}
    assert excess_on_objects(RoleRecord("app", Access.READ, ("public",)), here) == {
        TABLE: {"INSERT"},
        SCHEMA: {"CREATE"},
    }


def test_future_tables_of_the_superuser_and_of_all_makers() -> None:
    maker = RoleRecord("maker", Access.CREATE, ("public", "shop"))
    report = RoleRecord("report", Access.READ, ("shop",))
    wanted = wanted_defaults([APP, maker, report], "postgres")
    assert wanted == {
        Defaults("postgres", "public", Kind.TABLES, "app"): Access.WRITE.on_tables,
        Defaults("postgres", "public", Kind.SEQUENCES, "app"): Access.WRITE.on_sequences,
        Defaults("maker", "public", Kind.TABLES, "app"): Access.WRITE.on_tables,
        Defaults("maker", "public", Kind.SEQUENCES, "app"): Access.WRITE.on_sequences,
        Defaults("postgres", "public", Kind.TABLES, "maker"): Access.CREATE.on_tables,
        Defaults("postgres", "public", Kind.SEQUENCES, "maker"): Access.CREATE.on_sequences,
        Defaults("postgres", "shop", Kind.TABLES, "maker"): Access.CREATE.on_tables,
        Defaults("postgres", "shop", Kind.SEQUENCES, "maker"): Access.CREATE.on_sequences,
        Defaults("postgres", "shop", Kind.TABLES, "report"): Access.READ.on_tables,
        Defaults("postgres", "shop", Kind.SEQUENCES, "report"): Access.READ.on_sequences,
        Defaults("maker", "shop", Kind.TABLES, "report"): Access.READ.on_tables,
        Defaults("maker", "shop", Kind.SEQUENCES, "report"): Access.READ.on_sequences,
    }


def test_what_is_asked_for_and_what_is_recorded() -> None:
    assert merged("app", None, None, None) == APP
    assert merged("app", None, Access.READ, ["shop"]) == RoleRecord("app", Access.READ, ("shop",))
    assert merged("app", APP, None, None) == APP
    assert merged("app", APP, Access.READ, None) == RoleRecord("app", Access.READ, ("public",))
    assert merged("app", APP, None, ["shop", "public"]) == RoleRecord("app", Access.WRITE, ("public", "shop"))


@pytest.mark.parametrize("name", ["app", "app_2", "_x", "my-app", "current_user", "a" * 63])
def test_names_that_are_taken(name: str) -> None:
    assert role_problem(name, "postgres") is None


@pytest.mark.parametrize("name", ["postgres", "pg_x", "public", "none", "App", "2app", "a/b", "a.b", "ä", "", "a" * 64])
def test_names_that_are_not(name: str) -> None:
    assert role_problem(name, "postgres")


@pytest.mark.parametrize("name", ["App", "2app", "a/b", "a" * 64])
def test_what_a_name_may_hold_is_said_at_once(name: str) -> None:
    assert "lowercase letters, digits" in str(role_problem(name, "postgres"))


@pytest.mark.parametrize("name", ["pg_catalog", "information_schema", "citus_cluster", "citus", "pg_toast_1", ""])
def test_schemas_that_are_not_for_tables(name: str) -> None:
    assert schema_problem(name)


@pytest.mark.parametrize("password", ["a", "it's", "a\\", "\\'", " a b ", "x=1 host=evil", "$(id) `x` 密码"])
def test_a_password_comes_out_of_authinfo_as_it_went_in(password: str) -> None:
    assert conninfo_to_dict(authinfo(password)) == {"password": password}


def test_problems_in_words() -> None:
    def problems(**more: object) -> tuple[str, ...]:
        values = {"exists": True, "can_login": True, "missing_on": (), "ungranted": (), "password_file": None}
        return RoleStatus("app", APP, **{**values, **more}).problems  # type: ignore[arg-type]

    assert problems() == ()
    assert problems(exists=False, can_login=False) == ("it is recorded, but the role does not exist",)
    assert problems(can_login=False, missing_on=(NodeAddress("w1"), NodeAddress("w2"))) == (
        "it may not log in (NOLOGIN)",
        "its credentials are missing on w1:5432, w2:5432",
    )
    assert problems(ungranted=tuple("abcde")) == ("it lacks privileges on a, b, c and 2 more",)
    assert problems(forgotten=True) == (
        "its password file is missing; to write it again: citus-cluster roles create app",
    )
