"""The status of an application is what it says itself."""

import asyncio
import json

import pytest
from http_server import answering

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.runtime.probes.application import ApplicationProbe


def ask(port: int) -> CompanionStatus:
    async def nobody_doubts(address: NodeAddress) -> str | None:
        return None

    target = Target(ComponentName.EXAMPLE_USERS, {"example-users": NodeAddress("127.0.0.1", port)})
    return asyncio.run(ApplicationProbe(target, "", nobody_doubts).ask(10))


@pytest.mark.parametrize(
    ("answer", "condition", "reason"),
    [
        ((200, {"status": "ok", "reason": None}), Condition.OK, None),
        ((200, {"status": "degraded", "reason": "cache: away"}), Condition.DEGRADED, "cache: away"),
        ((503, {"status": "down", "reason": "coordinator: away"}), Condition.DOWN, "coordinator: away"),
        ((503, {"status": "degraded"}), Condition.DOWN, "status 503"),
        ((200, ["something else"]), Condition.OK, None),
    ],
)
def test_its_own_word_counts(answer: tuple[int, object], condition: Condition, reason: str | None) -> None:
    status, body = answer
    with answering({"/health": (status, json.dumps(body).encode())}) as port:
        found = ask(port)
    assert (found.service, found.condition, found.reason) == (ComponentName.EXAMPLE_USERS, condition, reason)


def test_one_that_does_not_answer_is_down() -> None:
    found = ask(1)
    assert found.condition is Condition.DOWN
    assert found.reason
    assert found.reason.startswith("no response from 127.0.0.1:1")
