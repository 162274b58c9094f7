"""Prepared transactions, objects that moves left behind, and statistics: decisions from rows."""

from datetime import UTC, datetime
from typing import Any

import pytest

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.orphans import CleanupRecord, Kind, Leftover, OrphanState, find_orphans
from citus_cluster.model.citus.prepared import Decision, Initiator, Prepared, decide
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.statistics import (
    NEEDS,
    Feature,
    FeatureOffError,
    FeatureState,
    NodeFeature,
    describe_feature,
    enabling_steps,
    require,
    restart,
)
from citus_cluster.model.plan.preview import Severity
from citus_cluster.operations.consistency.changes import plan_cleanup, plan_recovery

COORDINATOR = RegisteredNode(1, 0, NodeAddress("citus-coordinator"), True, "primary", False)
WORKER = RegisteredNode(2, 3, NodeAddress("citus-worker1"), True, "primary", True)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def decision_of(gid: str, **initiator: Any) -> Decision:
    values = {"running": frozenset(), "committed": frozenset(), **initiator}
    known = {0: Initiator(COORDINATOR.address, **values)}
    (row,) = decide([Prepared(WORKER, gid, "app", AT, 5.0)], known, {})
    return row.decision


def test_a_prepared_transaction_ends_by_the_rule_of_citus() -> None:
    gid = "citus_0_12_345_6"
    assert decision_of(gid) is Decision.ROLLBACK
    assert decision_of(gid, committed=frozenset({(3, gid)})) is Decision.COMMIT
    assert decision_of(gid, committed=frozenset({(4, gid)})) is Decision.ROLLBACK, "of another node"
    assert decision_of(gid, committed=frozenset({(3, gid)}), running=frozenset({345})) is Decision.RUNNING
    assert decision_of("citus_7_12_345_6") is Decision.UNKNOWN
    assert decision_of("citus_of_mine") is Decision.FOREIGN
    assert decision_of("citus_0_12_345_6; DROP") is Decision.FOREIGN


def test_a_silent_node_blocks_a_recovery_only_if_there_is_something_to_recover() -> None:
    silent = {NodeAddress("citus-worker2"): "It does not answer."}
    found = plan_recovery(decide([], {}, silent))
    assert (found.steps, [one.severity for one in found.findings]) == ((), [Severity.WARNS])
    known = {0: Initiator(COORDINATOR.address, frozenset(), frozenset())}
    found = plan_recovery(decide([Prepared(WORKER, "citus_0_1_2_3", "app", AT, 5.0)], known, silent))
    assert [one.severity for one in found.findings] == [Severity.BLOCKS]


def test_leftovers_are_found_with_and_without_a_record() -> None:
    address = WORKER.address
    records = [
        CleanupRecord(1, Kind.SHARD, 'public."Odd_102008"', 3, False),
        CleanupRecord(2, Kind.SLOT, "citus_shard_move_slot_1", 3, True),
        CleanupRecord(3, Kind.SHARD, "public.gone_102009", 9, False),
    ]
    found = [
        Leftover(address, Kind.SHARD, '"Odd_102008"', False, 8192),
        Leftover(address, Kind.SLOT, "citus_shard_move_slot_1", True, 100),
        Leftover(address, Kind.SLOT, "citus_shard_move_slot_2", True, 100),
        Leftover(address, Kind.PUBLICATION, "citus_shard_move_publication_3", False, None),
    ]
    rows = find_orphans(records, found, [COORDINATOR, WORKER], {})
    assert [(row.state, row.size_bytes) for row in rows] == [
        (OrphanState.WAITS, 8192),
        (OrphanState.IN_USE, 100),
        (OrphanState.GONE_NODE, None),
        (OrphanState.IN_USE, 100),
        (OrphanState.UNRECORDED, None),
    ]
    assert rows[4].remedy == (
        'SET citus.enable_ddl_propagation = off; DROP PUBLICATION "citus_shard_move_publication_3";  '
        "-- on citus-worker1:5432"
    )
    assert len({row.id for row in rows}) == len(rows)
    preview = plan_cleanup(rows)
    assert preview.steps == ('Drop shard public."Odd_102008" on citus-worker1:5432.',)
    assert not preview.blocking


def test_many_leftovers_are_summed_up() -> None:
    records = [CleanupRecord(number, Kind.SHARD, f"public.t_{number}", 3, False) for number in range(102000, 102200)]
    preview = plan_cleanup(find_orphans(records, [], [WORKER], {}))
    assert len(preview.steps) == 51
    assert preview.steps[-1] == "Drop 150 more objects."


ON = {"pg_stat_statements.track": "all", "compute_query_id": "on", "citus.stat_statements_track": "all"}
NONE = {"pg_stat_statements.track": "none", "compute_query_id": "off", "citus.stat_statements_track": "none"}


def node(libraries: str = "citus,pg_stat_statements", **more: Any) -> NodeFeature:
    values: dict[str, Any] = {"schema": "public", "settings": ON, **more}
    return NodeFeature(COORDINATOR.address, True, tuple(libraries.split(",")), **values)


def test_what_statistics_lack_is_named_with_its_remedy() -> None:
    require(Feature.STATEMENTS, node())
    assert describe_feature(Feature.STATEMENTS, [node()], {}).state is FeatureState.ON
    with pytest.raises(FeatureOffError, match=r"extension pg_stat_statements, pg_stat_statements\.track = top"):
        require(Feature.STATEMENTS, node(schema=None, settings=NONE))
    unloaded = node("citus", schema=None, settings=dict.fromkeys(NONE))
    assert restart(NEEDS[Feature.STATEMENTS], unloaded)
    row = describe_feature(Feature.STATEMENTS, [unloaded], {})
    assert row.needs_restart
    assert "shared_preload_libraries: citus,pg_stat_statements in settings.coordinator" in str(row.remedy)
    steps = enabling_steps(NEEDS[Feature.STATEMENTS], [node(settings=NONE)])
    assert steps == (
        "Set pg_stat_statements.track = top, compute_query_id = auto, citus.stat_statements_track = all on "
        "citus-coordinator:5432 with ALTER SYSTEM, and reload its settings.",
    )
