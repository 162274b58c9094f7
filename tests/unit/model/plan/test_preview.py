"""What a plan refuses: the error that the change itself would raise, wherever there is one."""

import pytest

from citus_cluster.errors import BlockedError, CitusClusterError, MismatchError, RebalanceError
from citus_cluster.model.plan.preview import Finding, Preview, blocks, refusal, warns

RUNNING = RebalanceError("Rebalance 7 is running.", hint="Wait for it.")
BARE = RebalanceError("Tables have no key.", details=("ALTER TABLE a;", "ALTER TABLE b;"))


@pytest.mark.parametrize(
    ("findings", "kind", "message"),
    [
        ((refusal(RUNNING), warns("It is slow.")), RebalanceError, "Rebalance 7 is running."),
        (
            (refusal(RUNNING), refusal(BARE)),
            RebalanceError,
            "Nothing was changed: Rebalance 7 is running; Tables have no key.",
        ),
        ((refusal(RUNNING), refusal(MismatchError("Too old."))), BlockedError, "Nothing was changed: "),
        ((refusal(RUNNING), blocks("It is wet.")), BlockedError, "Nothing was changed: "),
        ((blocks("It is wet.", "DRY;"),), BlockedError, "Nothing was changed: It is wet."),
    ],
)
def test_what_prevents_a_change_keeps_its_code(
    findings: tuple[Finding, ...], kind: type[CitusClusterError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        Preview(("Do it.",), findings).refuse()
    assert type(caught.value) is kind
    assert caught.value.message.startswith(message)


def test_a_refusal_is_shown_with_the_statements_that_mend_it() -> None:
    assert refusal(BARE).as_dict() == {
        "severity": "blocks",
        "message": "Tables have no key.",
        "fix": "ALTER TABLE a; ALTER TABLE b;",
    }
    assert refusal(RUNNING).fix == "Wait for it."
    Preview(("Do it.",), (warns("It is slow."),)).refuse()
