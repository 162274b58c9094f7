"""Running declared views and changes on real servers, as the edges do."""

import asyncio
import os
import subprocess
import sys
from typing import Any

import programs
from setup_support import ROOT
from sql_servers import COORDINATOR, Servers

from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import read_parameters
from citus_cluster.model.plan.events import Emit, ignore
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.change import AnyChange
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.coordinator import connecting
from citus_cluster.operations.view import AnyView


def declared_cluster(servers: Servers) -> Cluster:
    info = servers.info(COORDINATOR.host)
    return Cluster(connecting(info), info, coordinator=COORDINATOR)


def command(servers: Servers, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``citus-cluster``."""
    dsn = servers.info(COORDINATOR.host).dsn(masked=False)
    return programs.run(
        [sys.executable, "-m", "citus_cluster", *words, f"--dsn={dsn}"],
        cwd=ROOT,
        environment={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout_s=60,
    )


def read(servers: Servers, view: AnyView, **given: object) -> Any:
    """Read a view."""
    return asyncio.run(view.read(declared_cluster(servers), read_parameters(view.parameters, given)))


def plan(servers: Servers, change: AnyChange, **given: object) -> Preview:
    """Plan a change."""
    return asyncio.run(change.plan(declared_cluster(servers), read_parameters(change.parameters, given)))


def run_planned(servers: Servers, change: AnyChange, preview: Preview, **given: object) -> Documented:
    """Run a change that was planned before."""
    wanted = read_parameters(change.parameters, given)
    return asyncio.run(change.run(declared_cluster(servers), wanted, preview, ignore))


def run(servers: Servers, change: AnyChange, emit: Emit = ignore, **given: object) -> Documented:
    """Plan a change, and run it unless the checks found what would make it fail."""

    async def body() -> Documented:
        cluster, wanted = declared_cluster(servers), read_parameters(change.parameters, given)
        preview = await change.plan(cluster, wanted)
        preview.refuse()
        return await change.run(cluster, wanted, preview, emit)

    return asyncio.run(body())
