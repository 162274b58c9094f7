"""What components need of the coordinator is made for those that are wanted, and one failure hides no other."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from citus_cluster.errors import CitusClusterError, RoleError, UsageError
from citus_cluster.model.component import Secret
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations import preparation
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.start import preparation as at_start
from citus_cluster.runtime.postgres import Connection

ONE, TWO = ComponentName.PGBOUNCER, ComponentName.REDIS
CONN = cast("Connection", object())


class Needed:
    """Two components that need something; one of them may fail."""

    def __init__(self, failures: dict[ComponentName, CitusClusterError]) -> None:
        self.failures = failures
        self.made: list[tuple[ComponentName, str, float]] = []

    def of(self, component: ComponentName) -> Any:
        async def make(conn: Connection, password: str, emit: object, *, wait_for_lock_s: float) -> bool:
            self.made.append((component, password, wait_for_lock_s))
            if component in self.failures:
                raise self.failures[component]
            return True

        async def look(conn: Connection, password: str) -> str | None:
            return f"the password {password!r} is missing" if component in self.failures else None

        return preparation.Need(make, look)


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> Needed:
    needed = Needed({})
    both = {component: needed.of(component) for component in (ONE, TWO)}
    monkeypatch.setattr(preparation, "NEEDED", both)
    return needed


def secret_of(secret: Secret) -> str:
    return f"value of {secret.name}"


def prepare(*components: ComponentName) -> Mapping[ComponentName, CitusClusterError]:
    return asyncio.run(preparation.prepare_coordinator(CONN, components, secret_of, ignore, wait_for_lock_s=3))


def test_what_wanted_components_need_is_made_with_their_passwords(needed: Needed) -> None:
    assert prepare(ComponentName.CITUS, TWO) == {}
    assert needed.made == [(TWO, "value of redis_password", 3)]


def test_one_that_fails_keeps_none_from_being_made_and_is_told(needed: Needed) -> None:
    needed.failures = {ONE: RoleError("first"), TWO: RoleError("second")}
    assert prepare(ONE, TWO) == needed.failures
    assert [component for component, *_ in needed.made] == [ONE, TWO]


def test_what_wanted_components_lack_is_told_and_nothing_is_made(needed: Needed) -> None:
    needed.failures = {TWO: RoleError("second")}
    lacks = asyncio.run(preparation.lacks_on_coordinator(CONN, [ComponentName.CITUS, ONE, TWO], secret_of))
    assert lacks == {TWO: "the password 'value of redis_password' is missing"}
    assert needed.made == []


def directory_of(*components: ComponentName) -> Directory:
    def refuse() -> None:
        raise UsageError("Nobody may connect.")

    return cast("Directory", SimpleNamespace(topology=SimpleNamespace(components=components), coordinator=refuse))


def test_a_start_connects_only_where_something_is_needed(needed: Needed) -> None:
    """And gives its failure back, since the services that start meanwhile do not depend on it."""
    nothing = asyncio.run(at_start.prepare_coordinator_of(directory_of(ComponentName.CITUS), ignore))
    assert nothing is None
    failure = asyncio.run(at_start.prepare_coordinator_of(directory_of(ComponentName.CITUS, ONE), ignore))
    assert isinstance(failure, UsageError)


def test_a_coordinator_that_does_not_answer_hides_no_status(needed: Needed) -> None:
    assert asyncio.run(at_start.lacks_of(directory_of(ComponentName.CITUS, ONE))) == {}
