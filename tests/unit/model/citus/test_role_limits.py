"""Limits of roles: what is asked for, recorded, and wanted on which node."""

import pytest

from citus_cluster.model.citus.role_limits import (
    FoundLimits,
    Limit,
    differing,
    in_words,
    merged_limits,
    parse_limits,
    risks,
    wanted_limits,
)
from citus_cluster.model.citus.roles import Access


def wanted(*given: str, access: Access = Access.WRITE) -> dict[str, str | None]:
    limits, problems = parse_limits(given)
    assert problems == ()
    found = wanted_limits(access, merged_limits(None, limits, is_new=True))
    assert found is not None
    return {limit.value: value for limit, value in found.items()}


def test_a_new_role_is_limited_and_a_maker_of_tables_in_its_sessions_alone() -> None:
    assert wanted() == {"connections": None, "statement_timeout": "15min", "temp_file_limit": "10GB"}
    assert wanted(access=Access.CREATE) == {"connections": None, "statement_timeout": None, "temp_file_limit": None}
    assert wanted("connections=none", "statement_timeout=1h") == {
        "connections": None,
        "statement_timeout": "1h",
        "temp_file_limit": "10GB",
    }


def test_of_a_role_that_was_not_limited_here_only_what_is_asked_for_is_set() -> None:
    assert merged_limits(None, {}, is_new=False) is None
    assert wanted_limits(Access.WRITE, None) is None
    recorded = merged_limits(None, {Limit.STATEMENT_TIMEOUT: "1h"}, is_new=False)
    assert wanted_limits(Access.WRITE, recorded) == {Limit.STATEMENT_TIMEOUT: "1h"}
    back = merged_limits(recorded, {Limit.CONNECTIONS: "default", Limit.STATEMENT_TIMEOUT: "none"}, is_new=False)
    assert wanted_limits(Access.WRITE, back) == {Limit.CONNECTIONS: None, Limit.STATEMENT_TIMEOUT: None}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("sessions=3", "write NAME=VALUE, where NAME is one of connections, statement_timeout, temp_file_limit"),
        ("connections", "write NAME=VALUE"),
        ("connections=", "write NAME=VALUE"),
        ("connections=0", "use 1 or more"),
        ("connections=-1", "use 1 or more"),
        ("connections=²", "use 1 or more"),
        ("statement_timeout=0", "would remove the limit: write statement_timeout=none"),
        ("temp_file_limit=-1", "would remove the limit: write temp_file_limit=none"),
        ("statement_timeout=soon", "is not a duration"),
        ("temp_file_limit=10", ""),
        ("temp_file_limit=10gb", "is not a size"),
        ("statement_timeout=0.5h", ""),
    ],
)
def test_what_cannot_be_a_limit_is_refused(given: str, told: str) -> None:
    limits, problems = parse_limits([given])
    assert bool(limits) is (told == "")
    assert not told or told in problems[0]


def test_sessions_are_limited_on_the_coordinator_alone() -> None:
    asked = wanted_limits(Access.WRITE, {"connections": "27"})
    assert asked is not None
    config = ["statement_timeout=15min", "temp_file_limit=10GB", "search_path=a=b"]
    assert differing(asked, FoundLimits.read(27, config), on_coordinator=True) == ()
    assert differing(asked, FoundLimits.read(-1, config), on_coordinator=False) == ()
    assert differing(asked, FoundLimits.read(27, config), on_coordinator=False) == (Limit.CONNECTIONS,)
    copied = FoundLimits.read(
        -1, ["statement_timeout=900000", "temp_file_limit=10485760"]
    )  # as Citus gives a new worker
    assert differing(asked, copied, on_coordinator=False) == ()
    other = FoundLimits.read(-1, ["statement_timeout=900001", "temp_file_limit=10MB"])
    assert differing(asked, other, on_coordinator=False) == (Limit.STATEMENT_TIMEOUT, Limit.TEMP_FILE_LIMIT)
    assert differing(asked, FoundLimits.read(27, config[1:]), on_coordinator=True) == (Limit.STATEMENT_TIMEOUT,)
    assert in_words(asked) == "27 sessions on the coordinator, statement_timeout 15min, temp_file_limit 10GB"


def test_a_maker_of_tables_is_warned_of_limits_that_moves_of_shards_meet() -> None:
    asked = wanted_limits(Access.CREATE, {"statement_timeout": "5s"})
    assert asked is not None
    assert "a rebalance or drain of large tables may fail" in str(risks(Access.CREATE, asked))
    assert risks(Access.CREATE, wanted_limits(Access.CREATE, {}) or {}) is None
    assert risks(Access.WRITE, asked) is None
