"""A change of a node that Citus committed before the process ended: resuming it recognises that it is done."""

from pathlib import Path
from typing import Any

import pytest
import virtual_time
from fake_citus import ONE, THREE, TWO, FakeCitus, in_place

from citus_cluster.errors import NotFoundError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.plan.events import Event
from citus_cluster.operations.change import AnyChange, perform
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.journaled import of_command
from citus_cluster.operations.nodes import leaving, moving
from citus_cluster.operations.nodes.leaving import REMOVE, Leaving
from citus_cluster.operations.nodes.moving import MOVE, NewAddress
from citus_cluster.runtime.postgres import ConnectionInfo

ELSEWHERE = NodeAddress("db9.example")
LEAVING = Leaving(TWO.host)
TO_ELSEWHERE = NewAddress(TWO.host, ELSEWHERE.host)


async def nothing(*_: object, **__: object) -> tuple[()]:
    return ()


@pytest.fixture
def citus(monkeypatch: pytest.MonkeyPatch) -> FakeCitus:
    monkeypatch.setattr(moving, "_server_findings", nothing)
    return in_place(monkeypatch, FakeCitus.of(ONE, TWO, THREE))


def reached(citus: FakeCitus) -> Cluster:
    async def on_coordinator(work: Any) -> Any:
        return await work(citus.connection)

    return Cluster(on_coordinator, ConnectionInfo("nowhere", 1, "postgres", "postgres", ""))


def plan(citus: FakeCitus, change: AnyChange, wanted: Any) -> Any:
    return virtual_time.run(change.plan(reached(citus), wanted)).as_dict()["details"]


def resume(citus: FakeCitus, folder: Path, change: AnyChange, wanted: Any, planned: Any) -> tuple[Any, list[str]]:
    """Return the result and the messages of an operation that is resumed."""
    events: list[Event] = []
    (folder / "generated").mkdir(exist_ok=True)
    journal = of_command(folder, ())
    found = virtual_time.run(
        perform(change, reached(citus), journal, wanted, events.append, planned=planned)  # no preview: it is resumed
    )
    return found.as_dict(), [event.message for event in events]


def forget(citus: FakeCitus, node: NodeAddress) -> None:
    """Remove a node as Citus does, with the record of it."""
    citus.nodes = [one for one in citus.nodes if one.address != node]


def test_a_node_that_is_gone_is_removed(citus: FakeCitus, tmp_path: Path) -> None:
    planned = plan(citus, REMOVE, LEAVING)
    forget(citus, TWO)
    found, messages = resume(citus, tmp_path, REMOVE, LEAVING, planned)
    assert found == {
        "node": str(TWO),
        "changed": True,
        "following": [f"citus-cluster nodes remove {TWO.host}"],
    }
    assert messages == [f"{TWO} is no longer in the node list"]
    assert citus.done == []


def test_a_standby_that_is_gone_leaves_nothing_to_do_on_its_host(
    citus: FakeCitus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "silent_others", nothing)
    citus.change(TWO, role="secondary")
    planned = plan(citus, REMOVE, LEAVING)
    forget(citus, TWO)
    assert resume(citus, tmp_path, REMOVE, LEAVING, planned)[0]["following"] == []


def test_another_node_with_the_name_of_a_removed_one_stays(citus: FakeCitus, tmp_path: Path) -> None:
    planned = plan(citus, REMOVE, LEAVING)
    forget(citus, TWO)
    later = citus.register(TWO)
    resume(citus, tmp_path, REMOVE, LEAVING, planned)
    assert later in citus.nodes


def test_a_node_that_is_still_there_is_removed(citus: FakeCitus, tmp_path: Path) -> None:
    planned = plan(citus, REMOVE, LEAVING)
    resume(citus, tmp_path, REMOVE, LEAVING, planned)
    assert citus.done[-1] == f"remove {TWO.host}"


@pytest.mark.parametrize("planned", [{}, {"host": TWO.host, "port": TWO.port}], ids=["no plan", "an older plan"])
@pytest.mark.parametrize(("change", "wanted"), [(REMOVE, LEAVING), (MOVE, TO_ELSEWHERE)], ids=["remove", "move"])
def test_a_node_that_no_plan_names_is_not_taken_for_done(
    citus: FakeCitus, tmp_path: Path, change: AnyChange, wanted: Any, planned: Any
) -> None:
    forget(citus, TWO)
    with pytest.raises(NotFoundError):
        resume(citus, tmp_path, change, wanted, planned)


def test_a_node_with_its_new_address_is_moved(citus: FakeCitus, tmp_path: Path) -> None:
    planned = plan(citus, MOVE, TO_ELSEWHERE)
    number = citus.node(TWO).node_id
    citus.change(TWO, address=ELSEWHERE)
    found, messages = resume(citus, tmp_path, MOVE, TO_ELSEWHERE, planned)
    assert found == {"node": str(ELSEWHERE), "changed": True}
    assert messages == [f"node {number} is {ELSEWHERE}"]


def test_another_node_with_the_old_address_is_not_moved(citus: FakeCitus, tmp_path: Path) -> None:
    planned = plan(citus, MOVE, TO_ELSEWHERE)
    citus.change(TWO, address=ELSEWHERE)
    later = citus.register(TWO)
    assert resume(citus, tmp_path, MOVE, TO_ELSEWHERE, planned)[0]["node"] == str(ELSEWHERE)
    assert later in citus.nodes


def test_another_node_at_the_new_address_is_no_move(citus: FakeCitus, tmp_path: Path) -> None:
    planned = plan(citus, MOVE, TO_ELSEWHERE)
    forget(citus, TWO)
    citus.register(ELSEWHERE)
    with pytest.raises(NotFoundError):
        resume(citus, tmp_path, MOVE, TO_ELSEWHERE, planned)
