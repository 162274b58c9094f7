"""The admin API killed in the middle of each long operation, and started again: it says so, and the work is completed.

Also two clients that request the same change at the same moment.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import pytest
from api_process import ApiProcess, api_process
from api_support import ApiFiles
from sql_servers import COORDINATOR, NASTY_PASSWORD, WORKERS, Servers, register
from sql_tables import may_decode
from waiting import eventually

from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("only_newest")]

FIRST, SECOND, _ = WORKERS
HERE = COORDINATOR.host
ROWS = 20_000
SUM = "SELECT count(*), sum(id), sum(hashtext(payload)) FROM orders WHERE id > 0"
TASKS = "SELECT count(*) > 0 FROM pg_dist_background_task WHERE status = 'running'"
ACTIVE = "SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE "
PLACED = "SELECT nodename, count(*) FROM citus_shards WHERE table_name = 'orders'::regclass GROUP BY 1 ORDER BY 1"
DISTRIBUTE = "SELECT create_distributed_table('orders', 'id', shard_count => 4, colocate_with => 'none')"
WRITER = "INSERT INTO orders SELECT generate_series(-500, -1), 'open'"
"""A transaction that has written to every shard, so no move or split of one can end."""
READER = "SELECT count(*) FROM orders"
"""A transaction that has read the table: the copy can be made, but cannot take the place of the table."""
OTHER_WRITER = "SELECT pg_current_xact_id()"
"""A transaction that wrote something else: a replication slot, with which an online copy begins, waits for it."""


@dataclass(frozen=True)
class Long:
    """A long change: its request, what keeps it from ending, and how the cluster looks in the middle and afterwards.

    ``follows``: the work goes on in Citus without the API, which follows it again by itself.
    """

    path: str
    body: Callable[[Servers], dict[str, Any]]
    holding: str
    middle: str
    after: Mapping[str, list[tuple[object, ...]]]
    prepare: tuple[str, ...] = (DISTRIBUTE,)
    follows: bool = False


def a_shard(cluster: Servers) -> int:
    ((shard,),) = cluster.sql(
        HERE,
        f"SELECT min(shardid) FROM citus_shards WHERE table_name = 'orders'::regclass AND nodename = '{FIRST.host}'",
    )
    assert isinstance(shard, int)
    return shard


def may_hold(node: NodeAddress, allowed: str) -> str:
    return f"SELECT citus_set_node_property('{node.host}', {node.port}, 'shouldhaveshards', {allowed})"


SPLITS = {
    "split": Long(
        "shards/split",
        lambda cluster: {"shard": a_shard(cluster), "points": "half"},
        WRITER,
        f"{ACTIVE} '%citus_split_shard_by_split_points(%'",
        {PLACED: [(FIRST.host, 3), (SECOND.host, 2)]},
    ),
    "isolate": Long(
        "shards/isolate",
        lambda cluster: {"table": "orders", "value": "1"},
        WRITER,
        f"{ACTIVE} '%isolate_tenant_to_new_shard(%'",
        {"SELECT count(*) FROM citus_shards WHERE table_name = 'orders'::regclass": [(6,)]},
    ),
}
LONG = {
    "rebalance": Long(
        "rebalance",
        lambda cluster: {"strategy": "by_shard_count", "online": True, "wait": True},
        WRITER,
        TASKS,
        {PLACED: [(FIRST.host, 2), (SECOND.host, 2)]},
        prepare=(may_hold(SECOND, "false"), DISTRIBUTE, may_hold(SECOND, "true")),
        follows=True,
    ),
    "drain": Long(
        "nodes/drain",
        lambda cluster: {"names": [str(SECOND)], "online": True},
        WRITER,
        TASKS,
        {PLACED: [(FIRST.host, 4)]},
        follows=True,
    ),
    "move": Long(
        "shards/move",
        lambda cluster: {"shard": a_shard(cluster), "node": str(SECOND)},
        WRITER,
        TASKS,
        {PLACED: [(FIRST.host, 1), (SECOND.host, 3)]},
        follows=True,
    ),
    "split": SPLITS["split"],
    "distribute": Long(
        "tables/distribute",
        lambda cluster: {"table": "orders", "column": "id", "concurrently": True, "shard_count": 4},
        OTHER_WRITER,
        # Citus has committed its first part.
        f"{ACTIVE} '%create_distributed_table_concurrently(%' AND EXISTS (SELECT FROM pg_dist_partition "
        "WHERE logicalrelid = 'orders'::regclass AND partmethod = 'n')",
        {PLACED: [(FIRST.host, 2), (SECOND.host, 2)]},
        prepare=(),
    ),
    "alter": Long(
        "tables/alter",
        lambda cluster: {"table": "orders", "shard_count": 6},
        READER,
        f"{ACTIVE} '%alter_distributed_table(%' AND wait_event_type = 'Lock'",
        {PLACED: [(FIRST.host, 3), (SECOND.host, 3)]},
    ),
    "undistribute": Long(
        "tables/undistribute",
        lambda cluster: {"table": "orders"},
        READER,
        f"{ACTIVE} '%undistribute_table(%' AND wait_event_type = 'Lock'",
        {"SELECT count(*) FROM pg_dist_partition WHERE logicalrelid = 'orders'::regclass": [(0,)]},
    ),
}


@pytest.fixture
def workers(cluster: Servers) -> Iterator[Servers]:
    """Two workers, and a table with its rows on the coordinator."""
    register(cluster, FIRST, SECOND)
    may_decode(cluster)
    cluster.sql(
        HERE,
        "DROP TABLE IF EXISTS orders",
        "CREATE TABLE orders (id bigint PRIMARY KEY, payload text)",
        f"INSERT INTO orders SELECT id, md5(id::text) FROM generate_series(1, {ROWS}) AS id",
    )
    try:
        yield cluster
    finally:
        cluster.sql(HERE, "ALTER ROLE postgres RESET ALL")


@pytest.fixture
def api(cluster: Servers, tmp_path: Path) -> Iterator[ApiProcess]:
    address = NodeAddress("127.0.0.1", cluster.info(HERE).port)
    config = ApiConfig("citus", "postgres", "postgres", address, COORDINATOR, (FIRST, SECOND))
    with api_process(ApiFiles.write(tmp_path, config, password=NASTY_PASSWORD)) as running:
        yield running


@contextmanager
def held(cluster: Servers, statement: str) -> Iterator[None]:
    with cluster.session() as client, client.transaction(force_rollback=True):
        client.execute(statement.encode())
        yield


@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
def test_an_operation_survives_the_end_of_the_api(workers: Servers, api: ApiProcess, long: Long) -> None:
    workers.sql(HERE, *long.prepare)
    before = workers.sql(HERE, SUM)
    with held(workers, long.holding):
        began = api.client.post(long.path, json=long.body(workers))
        assert began.status_code == 202, began.text
        number = began.json()["id"]
        eventually(lambda: workers.sql(HERE, long.middle) == [(True,)], lambda: str(api.events(number)))
        assert api.operation(number)["state"] == "running"
        api.kill()
        if not long.follows:
            # No statement goes on without the API that would follow it, and none keeps its locks.
            eventually(lambda: workers.sql(HERE, long.middle) != [(True,)], "the end of the statement", 20)
        api.start()
        assert "The admin API ended while this operation ran." in api.events(number)
        found = api.operation(number)
        assert (found["state"], found["attempts"]) == (("running", 2) if long.follows else ("interrupted", 1))
        assert workers.sql(HERE, SUM) == before
    if not long.follows:
        assert api.client.post(f"/operations/{number}/resume").status_code == 202
    eventually(lambda: api.operation(number)["state"] != "running", lambda: str(api.events(number)[-5:]), timeout_s=120)
    assert api.operation(number)["state"] == "done", api.operation(number)["error"]
    for query, rows in long.after.items():
        assert workers.sql(HERE, query) == rows
    assert workers.sql(HERE, SUM) == before


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_a_split_that_citus_has_committed_is_recognised(workers: Servers, api: ApiProcess, split: Long) -> None:
    workers.sql(HERE, *split.prepare)
    with held(workers, split.holding):
        number = api.client.post(split.path, json=split.body(workers)).json()["id"]
        eventually(lambda: workers.sql(HERE, split.middle) == [(True,)], lambda: str(api.events(number)))
        record = sqlite3.connect(api.files.folder / "data" / "operations.sqlite", isolation_level=None)
        record.execute("BEGIN IMMEDIATE")
    with contextlib.closing(record):
        ((query, rows),) = split.after.items()
        eventually(lambda: workers.sql(HERE, query) == rows, "the end of the split", 60)
        # The end is not recorded, because the record is locked.
        api.kill()
    api.start()
    assert api.operation(number)["state"] == "interrupted"
    assert api.client.post(f"/operations/{number}/resume").status_code == 202
    eventually(lambda: api.operation(number)["state"] != "running", lambda: str(api.events(number)[-5:]))
    found = api.operation(number)
    assert (found["state"], found["error"]) == ("done", None)
    assert found["result"]["shards"]
    assert workers.sql(HERE, query) == rows


def test_a_shard_that_somebody_else_has_split_is_described(workers: Servers, api: ApiProcess) -> None:
    workers.sql(HERE, DISTRIBUTE)
    shard = a_shard(workers)
    with held(workers, WRITER):
        number = api.client.post("shards/split", json={"shard": shard, "points": "half"}).json()["id"]
        eventually(lambda: workers.sql(HERE, LONG["split"].middle) == [(True,)], lambda: str(api.events(number)))
        api.kill()
        eventually(lambda: workers.sql(HERE, LONG["split"].middle) != [(True,)], "the end of the statement", 20)
    workers.sql(
        HERE,
        f"SELECT citus_split_shard_by_split_points({shard}, ARRAY['-2000000000'], ARRAY[nodeid, nodeid], "
        f"'block_writes') FROM pg_dist_node WHERE nodename = '{FIRST.host}'",
    )
    api.start()
    assert api.client.post(f"/operations/{number}/resume").status_code == 202
    eventually(lambda: api.operation(number)["state"] != "running", lambda: str(api.events(number)[-5:]))
    error = api.operation(number)["error"]
    assert f"Shard {shard} of orders is gone, but not by this split" in error["message"]
    assert "-2147483648 to -2000000000" in error["message"]
    assert "Split one of these shards" in error["hint"]


def test_of_two_clients_with_the_same_change_one_wins_and_the_other_learns_of_it(
    workers: Servers, api: ApiProcess
) -> None:
    workers.sql(HERE, DISTRIBUTE)
    jobs = "SELECT count(*) FROM pg_dist_background_job"
    ((earlier,),) = workers.sql(HERE, jobs)
    body = {"shard": a_shard(workers), "node": str(SECOND)}
    both = Barrier(2)

    def request(_: int) -> httpx.Response:
        with httpx.Client(base_url=api.client.base_url, headers=api.client.headers, timeout=60) as client:
            both.wait()
            return client.post("shards/move", json=body)

    with held(workers, WRITER), ThreadPoolExecutor(2) as pool:
        won, lost = sorted(pool.map(request, range(2)), key=lambda answer: answer.status_code)
        assert (won.status_code, lost.status_code) == (202, 409), (won.text, lost.text)
        assert (lost.json()["code"], lost.json()["operation"]) == ("operation-running", won.headers["location"])
    number = won.json()["id"]
    eventually(lambda: api.operation(number)["state"] == "done", lambda: str(api.events(number)), timeout_s=120)
    assert workers.sql(HERE, jobs) == [(int(str(earlier)) + 1,)]
    assert api.client.get("/operations").json()["total"] == 1
