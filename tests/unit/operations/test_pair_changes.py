"""The plans of the pair's changes where no engine can be reached."""

import asyncio
from typing import cast

import pytest

from citus_cluster.errors import BlockedError
from citus_cluster.model.plan.events import ignore
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.pair.changes import PROMOTE, REBUILD, Promoting, Rebuilding

NOWHERE = cast("Cluster", None)


def test_a_plan_says_what_would_happen_and_which_command_does_it() -> None:
    plan = asyncio.run(PROMOTE.plan(NOWHERE, Promoting(accept_loss=True)))
    assert plan.steps
    assert [one.fix for one in plan.blocking] == ["citus-cluster pg14 promote --accept-loss"]
    (finding,) = asyncio.run(REBUILD.plan(NOWHERE, Rebuilding())).blocking
    assert finding.fix == "citus-cluster pg14 rebuild-replica"


def test_a_run_names_the_command() -> None:
    with pytest.raises(BlockedError) as caught:
        asyncio.run(REBUILD.run(NOWHERE, Rebuilding(discard=True), Preview(()), ignore))
    assert "citus-cluster pg14 rebuild-replica --discard" in str(caught.value.hint)
