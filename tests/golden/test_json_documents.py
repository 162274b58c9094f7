"""Every key, id and code that scripts may read from ``--format json``; ``pytest --update-golden`` writes them anew."""

import ast
import importlib
import json
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import pytest
from setup_support import ROOT, plan, set_up

import citus_cluster
from citus_cluster.errors import CitusClusterError, ExitStatus, LockedError, SpecError
from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.losses import Loss
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.overview import NodeOverview, Overview, TableOverview
from citus_cluster.model.citus.rebalance import NO_REBALANCE, JobState, RebalanceStatus, RunningMove
from citus_cluster.model.citus.rebalance_plan import Move, RebalancePlan, TransferMode
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.removal import Departure, HeldTable
from citus_cluster.model.citus.roles import Access as RoleAccess
from citus_cluster.model.citus.roles import RoleRecord, RoleStatus
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.disks import Disk
from citus_cluster.model.plan.changes import Action
from citus_cluster.model.plan.effects import Effect, EffectKind
from citus_cluster.model.plan.events import EventKind
from citus_cluster.model.replication import (
    PairStatus,
    Phase,
    SeenServer,
    ServerFacts,
    ServerRole,
    Slot,
    StandbyConnection,
)
from citus_cluster.model.token_role import Role as TokenRole
from citus_cluster.operations.access import Access
from citus_cluster.operations.nodes.drain import Drained, DrainPlan
from citus_cluster.operations.nodes.removal import RemovalPlan
from citus_cluster.operations.pair.promotion import Promotion
from citus_cluster.operations.pair.rebuild import Rebuild
from citus_cluster.operations.roles.accounts import RoleList, RoleResult
from citus_cluster.operations.start.preflight import Finding, Severity
from citus_cluster.operations.start.up import UpResult
from citus_cluster.operations.status.report import ServiceStatus, State, Status
from citus_cluster.operations.tokens import CreatedToken, ListedToken, TokenList, TokenState
from citus_cluster.runtime.postgres import ConnectionInfo
from citus_cluster.runtime.probes.cassandra import RingNode

EXPECTED = Path(__file__).parent / "expected" / "json"
ONE, TWO = NodeAddress("citus-worker1"), NodeAddress("10.0.0.7", 6000)
NOON = datetime(2026, 1, 1, 12, 0, 0, 250000, tzinfo=UTC)
CONNECTION = ConnectionInfo("127.0.0.1", 5434, "postgres", "postgres", "the password")


def compare(name: str, data: object, request: pytest.FixtureRequest) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n"
    if request.config.getoption("--update-golden"):
        EXPECTED.mkdir(parents=True, exist_ok=True)
        (EXPECTED / name).write_text(text, encoding="utf-8")
    assert text == (EXPECTED / name).read_text(encoding="utf-8")


def nodes() -> dict[str, object]:
    loss = Loss(ONE, 4, {"public.orders": (102008, 102010)}, emptied=True, roles=("app",))
    node = NodeOverview(
        address=ONE,
        role="worker",
        is_active=True,
        should_have_shards=False,
        postgres_version="17.2",
        citus_version="13.2.0",
        shard_count=3,
        shard_bytes=4096,
        reason="it is slow",
        reference_count=1,
        loss=loss,
        extension=ExtensionVersions("13.1-1", "13.2-1"),
    )
    bare = NodeOverview(TWO, "coordinator", False, True, None, None, 0, None)
    table = TableOverview("public.orders", "distributed", "id", 32, 8192, 1)
    return {
        "result of a registration": NodeResult(
            TWO, Outcome.PENDING, "it does not answer", needs_operator=True
        ).as_dict(),
        "overview": Overview((node, bare), (table, replace(table, size_bytes=None)), NO_REBALANCE).as_dict(),
        "departure": departure().as_dict(),
        "departure of an unknown node": replace(departure(), node=None, silence="it does not answer").as_dict(),
        "disk": Disk("citus-worker1:5432", 3 * 10**9, 10**9).as_dict(),
    }


def departure() -> Departure:
    return Departure(
        name="citus-worker1",
        address=ONE,
        node=RegisteredNode(3, 2, ONE, True, "primary", False),
        recorded=True,
        coordinator=None,
        silence=None,
        identifier="7300000000000000000",
        held=(HeldTable("public.orders", 3, 1, None), HeldTable("public.items", 2, 2, 4096)),
        shard_targets=(TWO,),
        standbys=(),
        others_unreachable=(),
    )


def move_plan() -> RebalancePlan:
    return RebalancePlan((Move("public.orders", 102008, 4096, ONE, TWO, 1),), {ONE: 8192, TWO: 0})


def running_rebalance() -> RebalanceStatus:
    return RebalanceStatus(
        JobState.RUNNING,
        job_id=7,
        started_at=NOON,
        finished_at=None,
        observed_at=NOON,
        tasks={"running": 1, "done": 2},
        shards_done=2,
        shards_total=3,
        bytes_done=4096,
        bytes_total=8192,
        rate_bytes_per_s=1024.5,
        time_left_s=4.0,
        moves=(RunningMove("public.orders", 102008, ONE, TWO, "Copying Data", 1024, None),),
        problems=("a node is silent",),
    )


def rebalances() -> dict[str, object]:
    refusal = LockedError("It is locked.", hint="Wait.", details=["by a backup"])
    return {
        "plan": move_plan().as_dict(),
        "status": running_rebalance().as_dict(),
        "status before any": NO_REBALANCE.as_dict(),
        "drain plan": DrainPlan(move_plan(), ("little room",), None).as_dict(),
        "refused drain plan": DrainPlan(move_plan(), (), refusal).as_dict(),
        "drained": Drained((departure(),), running_rebalance()).as_dict(),
        "drained without a job": Drained((), None).as_dict(),
    }


def pair() -> PairStatus:
    facts = ServerFacts(
        in_recovery=False,
        timeline=2,
        system_identifier="7300000000000000000",
        lsn="0/5000060",
        received_lsn=None,
        since_replay_s=None,
        replay_paused=False,
        synchronous_standby_names="",
        waiting_sessions=3,
        longest_wait_s=1.5,
        standby_connection=StandbyConnection("streaming", "async", "0/5000000", 0.5, 1.25),
        slot=Slot("pg14_replica", True, "reserved", 16),
    )
    standby = replace(
        facts,
        in_recovery=True,
        lsn="0/5000000",
        received_lsn="0/5000060",
        since_replay_s=0.5,
        standby_connection=None,
        slot=None,
    )
    servers = (SeenServer("pg14-primary", facts, None, "running"), SeenServer("pg14-replica", standby))
    return PairStatus(True, "pg14-primary", servers, ("it is late",))


def pairs() -> dict[str, object]:
    cut = PairStatus(False, None, (SeenServer("pg14-primary", reason="it does not answer"),), ())
    return {
        "status": pair().as_dict(),
        "status of a single silent server": cut.as_dict(),
        "as a companion": pair().companion_status().as_dict(),
        "lag": pair().lag.as_dict(),
        "promotion": Promotion(
            "pg14-replica", "pg14-primary", False, True, ("a note",), ("a loss",), 5433, CONNECTION
        ).as_dict(),
        "rebuild": Rebuild("pg14-primary", "pg14-replica", ("a loss",), "kept").as_dict(),
    }


def access() -> Access:
    return Access(
        psql_in_container="docker exec -it citus-coordinator psql",
        psql_on_host="psql -h 127.0.0.1",
        admin_api_url="http://127.0.0.1:8000",
        admin_api_token_file="generated/secrets/admin_api_token",
        companions={"redis": "docker exec -it redis redis-cli"},
        addresses={"redis": "127.0.0.1:6379"},
        next_commands=("citus-cluster status",),
        connection=CONNECTION,
    )


def clusters() -> dict[str, object]:
    redis = CompanionStatus(ComponentName.REDIS, Condition.DOWN, "it is away", {"version": "7.2"}, "in one line")
    status = Status(
        cluster="citus",
        state=State.DEGRADED,
        services=(ServiceStatus("redis", "citus-redis", "exited", None, "exit code 1"),),
        overview=None,
        companions=(redis,),
        ring=(RingNode("172.18.0.9", True, "normal", "90.5 KiB", "100.0%", "rack1"),),
        not_registered=(ONE,),
        not_desired=(TWO,),
        problems=("a problem",),
        advice=("an advice",),
        warnings=("a warning",),
        disks=(Disk("engine", 100, 50),),
        access=access(),
    )
    bare = replace(status, ring=None, access=None, overview=Overview((), (), NO_REBALANCE))
    finding = Finding("disk-low", Severity.WARNING, "Little is free.", "Free some.")
    result = UpResult(
        cluster="citus",
        seconds=1.5,
        changed=("redis",),
        reloaded=("citus-worker1",),
        nodes=(NodeResult(ONE, Outcome.ADDED),),
        verified=True,
        companions=("redis",),
        warnings=(finding,),
        access=access(),
    )
    return {
        "status": status.as_dict(),
        "status without Cassandra and addresses": bare.as_dict(),
        "up": result.as_dict(),
        "up with secrets": result.as_dict(show_secrets=True),
        "finding": finding.as_dict(),
    }


def roles() -> dict[str, object]:
    record = RoleRecord("app", RoleAccess.WRITE, ("public", "shop"), {"connections": "20"})
    found = RoleStatus(
        name="app",
        record=record,
        exists=True,
        can_login=False,
        missing_on=(ONE,),
        ungranted=("shop.orders",),
        password_file="generated/secrets/roles/app_password",
        forgotten=True,
        limits={"connections": "20"},
        unlimited_on=(TWO,),
    )
    other = replace(found, record=None, exists=False, owner_of="shop", password_file=None, limits={})
    result = RoleResult(record, ("made",), None, CONNECTION, {"connections": "20"})
    return {
        "list": RoleList((found, other), ("citus-worker2 is silent",)).as_dict(),
        "created": result.as_dict(),
        "created without limits, with secrets": replace(result, limits=None).as_dict(show_secrets=True),
    }


def api_tokens() -> dict[str, object]:
    made = CreatedToken("ci", TokenRole.ADMIN, NOON, None, "ccl_the-token")
    listed = ListedToken("ci", TokenRole.READ, TokenState.EXPIRED, NOON, NOON, None)
    return {"created": made.as_dict(), "list": TokenList((listed,)).as_dict(), "revoked": listed.as_dict()}


def setups(folder: Path) -> dict[str, object]:
    """Plans, as far as they are the same everywhere: keys and what the cluster's own values decide."""
    first = plan(folder, {"workers": 2, "resources.memory_mb": 8000, "resources.cpus": 2}).as_dict()
    assert first.pop("directory") == str(folder)
    set_up(folder, {"workers": 2})
    larger = plan(folder, {"workers": 3})
    grown = larger.as_dict()
    removal = RemovalPlan(departure(), False, "citus-worker2", larger, None, "citus-worker2-data", ("a note",))
    removed = removal.as_dict()
    assert removed.pop("setup") == grown
    added = [effect for effect in grown["services"] if effect["kind"] == "add"]
    restarted = [effect["service"] for effect in grown["services"] if effect["kind"] == "recreate"]
    assert removed.pop("restarts") == restarted
    return {
        "first": {**first, "files": first["files"][:3], "notes": []},
        "one worker more": {"keys": list(grown), "services": added},
        "removal": removed,
        "effect": Effect("redis", EffectKind.RECREATE, ("its image changes",)).as_dict(),
    }


@pytest.mark.parametrize("name", ["nodes", "rebalances", "pairs", "clusters", "roles", "tokens"])
def test_the_documents_are_as_expected(name: str, request: pytest.FixtureRequest) -> None:
    documents = {"nodes": nodes, "rebalances": rebalances, "pairs": pairs, "clusters": clusters, "roles": roles}
    documents |= {"tokens": api_tokens}
    compare(f"{name}.json", documents[name](), request)


def test_the_documents_of_setups_are_as_expected(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    compare("setups.json", setups(tmp_path), request)


def errors() -> Iterator[type[CitusClusterError]]:
    """Every kind of error, of the core and of the API."""
    for package in ("citus_cluster", "admin_api"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    waiting = [CitusClusterError]
    while waiting:
        kind = waiting.pop(0)
        waiting += kind.__subclasses__()
        if kind.__module__.startswith(("citus_cluster", "admin_api")):
            yield kind


def finding_ids() -> list[str]:
    """The first argument of each call that makes a finding."""
    makers = {"Finding", "_error", "_warning", "_of_error"}
    found = set()
    for path in Path(citus_cluster.__file__).parent.joinpath("operations").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in makers and node.args:
                match node.args[0]:
                    case ast.Constant(value=str(text)):
                        found.add(text)
                    case _ if path.name != "preflight.py":
                        raise AssertionError(f"{path}: an id that nobody can look up")
    return sorted(found)


def test_the_words_that_scripts_compare_with_are_as_expected(request: pytest.FixtureRequest) -> None:
    kinds: list[type[StrEnum]] = [
        *(Action, Condition, EffectKind, EventKind, JobState, Outcome, Phase, RoleAccess, ServerRole, Severity),
        *(State, TransferMode),
    ]
    codes: dict[str, list[list[int]]] = {}
    for kind in sorted(errors(), key=lambda kind: (kind.code, kind.__name__)):
        codes.setdefault(kind.code, []).append([int(kind.exit_status), kind.http_status])
    words = {
        "exit statuses": {status.name: int(status) for status in ExitStatus},
        "errors": codes,
        "error": SpecError("It is so.", hint="Do this.", details=["a", "b"]).as_dict(),
        "findings": finding_ids(),
        **{kind.__name__: [one.value for one in kind] for kind in kinds},
    }
    compare("words.json", words, request)
