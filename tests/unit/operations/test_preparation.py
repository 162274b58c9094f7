"""What components need of the coordinator is made for those that are wanted, and one failure hides no other."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from citus_cluster.errors import CitusClusterError, RoleError, UsageError
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

        return make


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> Needed:
    needed = Needed({})
    both = {component: needed.of(component) for component in (ONE, TWO)}
    monkeypatch.setattr(preparation, "NEEDED", both)
    monkeypatch.setattr(at_start, "NEEDED", both)
    return needed


def password_of(component: ComponentName) -> str:
    return f"of {component.value}"


def prepare(*components: ComponentName) -> None:
    asyncio.run(preparation.prepare_coordinator(CONN, components, password_of, ignore, wait_for_lock_s=3))


def test_what_wanted_components_need_is_made_with_their_passwords(needed: Needed) -> None:
    prepare(ComponentName.CITUS, TWO)
    assert needed.made == [(TWO, "of redis", 3)]


def test_one_that_fails_keeps_none_from_being_made_and_is_told(needed: Needed) -> None:
    needed.failures = {ONE: RoleError("first"), TWO: RoleError("second")}
    with pytest.raises(RoleError, match="first"):
        prepare(ONE, TWO)
    assert [component for component, *_ in needed.made] == [ONE, TWO]


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
