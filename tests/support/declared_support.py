"""Planning and running declared changes, and reading declared views, on the servers of the SQL tests."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sql_servers import COORDINATOR, WORKERS, Servers

from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import NoParameters
from citus_cluster.model.plan.events import Emit, ignore
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.change import Change, perform
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.coordinator import connecting
from citus_cluster.operations.journaled import of_command
from citus_cluster.operations.view import View

P = TypeVar("P")


def reached(servers: Servers, **more: Any) -> Cluster:
    """Return the cluster as an edge reaches it, with the first workers wanted."""
    info = servers.info(COORDINATOR.host)
    return Cluster(connecting(info), info, **{"coordinator": COORDINATOR, "workers": WORKERS, **more})


def preview(servers: Servers, change: Change[Any], wanted: Any = None) -> Preview:
    return asyncio.run(change.plan(reached(servers), wanted or NoParameters()))


def outcome(
    servers: Servers,
    change: Change[Any],
    wanted: Any = None,
    planned: Preview | None = None,
    emit: Emit = ignore,
) -> Any:
    """Run a change as it was ``planned``, or plan it first. Returns its result."""
    cluster = reached(servers)

    async def body() -> Documented:
        found = planned or await change.plan(cluster, wanted or NoParameters())
        found.refuse()
        return await change.run(cluster, wanted or NoParameters(), found, emit)

    return asyncio.run(body())


def run(servers: Servers, change: Change[P], wanted: P, emit: Emit = ignore) -> Any:
    """Plan and run a change, which must not be blocked. Returns its result as a document."""
    return outcome(servers, change, wanted, emit=emit).as_dict()


def run_for_result(servers: Servers, change: Change[P], wanted: P, root: Path) -> Any:
    """Plan and run a change, with its line in the journal of a directory. Returns its result."""
    (root / "generated").mkdir(exist_ok=True)
    return asyncio.run(perform(change, reached(servers), of_command(root, ()), wanted, ignore))


def resumed(servers: Servers, change: Change[P], wanted: P, plan: Preview, root: Path) -> Any:
    """Resume a change of which only the plan was recorded. Returns its result as a document."""
    (root / "generated").mkdir(exist_ok=True)
    journal, planned = of_command(root, ()), plan.as_dict()["details"]
    return asyncio.run(perform(change, reached(servers), journal, wanted, ignore, planned=planned)).as_dict()


def planned_at_once(change: Change[Any]) -> Change[Any]:
    """Return the change with a plan that needs a connection, but asks and finds nothing."""

    async def plan(cluster: Cluster, wanted: object) -> Preview:
        async def work(connection: object) -> Preview:
            return Preview(("Do it.",))

        return await cluster.on_coordinator(work)

    return replace(change, plan=plan)


def read(servers: Servers, view: View[Any], wanted: Any = None) -> Any:
    return asyncio.run(view.read(reached(servers), wanted or NoParameters()))


def messages(findings: Sequence[Any]) -> str:
    return "\n".join(f"{one.severity.value}: {one.message} [{one.fix}]" for one in findings)
