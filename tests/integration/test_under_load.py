"""The admin API with hundreds of clients on a real cluster: nobody gets an error, and health checks hold up nobody."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from api_support import READ_TOKEN, Api, ApiFiles, serve
from sql_servers import COORDINATOR, NASTY_PASSWORD, WORKERS, Servers
from waiting import eventually

from admin_api.app import create_app
from admin_api.settings import API_PREFIX, APPLICATION_NAME, MAX_CONNECTIONS
from bench.load import CrowdTarget, Job, Outcome, measure
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.operations.registry import VIEWS

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("only_newest")]

CLIENTS = 500
ANONYMOUS = 200
READS_WITHIN_S = 5
"""A read takes milliseconds, but the server, the test and the clients of this file share two processors with others."""
VIEW_PATHS = tuple(
    f"{API_PREFIX}/{view.path}"
    for view in VIEWS
    if not view.parameters.__dataclass_fields__  # the others are of one thing, such as a key
)


@pytest.fixture
def api(cluster: Servers, tmp_path: Path) -> Iterator[Api]:
    info = cluster.info(COORDINATOR.host)
    wanted = ApiConfig(
        "citus", "postgres", "postgres", NodeAddress(info.host, info.port), COORDINATOR, workers=WORKERS[:2]
    )
    files = ApiFiles.write(tmp_path, wanted, password=NASTY_PASSWORD)
    with serve(create_app(files.settings())) as running:
        eventually(lambda: running.client.get("/health").status_code == 200, "a healthy cluster", timeout_s=60)
        cluster.sql(
            COORDINATOR.host,
            "CREATE TABLE visits (id bigint)",
            "SELECT create_distributed_table('visits', 'id', shard_count => 64)",
        )
        yield running


def _crowd(api: Api, clients: int, seconds: float, *paths: str, token: str = "") -> Outcome:
    return measure(Job(CrowdTarget(api.port, paths, token), clients, seconds, warmup_s=0))


def test_500_clients_at_once_are_all_answered(api: Api, cluster: Servers) -> None:
    known = (f"{API_PREFIX}/nodes/active", f"{API_PREFIX}/rebalance", "/health", "/health/ready", *VIEW_PATHS)
    # One says that it needs a setting that these servers do not have.
    paths = [path for path in known if api.client.get(path, headers=api.read).status_code == 200]
    assert len(paths) >= len(known) - 1
    found = _crowd(api, CLIENTS, 10, *paths, token=READ_TOKEN)
    assert set(found.statuses) <= {200, 429}, found.statuses
    assert found.statuses[200] >= CLIENTS
    assert _connections(cluster) <= MAX_CONNECTIONS + 1, "the reconciler has one of its own"


def test_anonymous_health_checks_do_not_take_the_pool_from_those_who_are_logged_in(api: Api, cluster: Servers) -> None:
    with ThreadPoolExecutor() as pool:
        anonymous = pool.submit(_crowd, api, ANONYMOUS, 5, "/health", "/health/ready")
        took_s = []
        while not anonymous.done():
            began = time.monotonic()
            answer = api.client.get(f"{API_PREFIX}/nodes/active", headers=api.read)
            took_s.append(time.monotonic() - began)
            assert (answer.status_code, len(answer.json())) == (200, 2), answer.text
            assert _connections(cluster) <= MAX_CONNECTIONS + 1
        statuses = anonymous.result().statuses
    assert set(statuses) == {200}, statuses
    assert statuses[200] >= ANONYMOUS
    assert max(took_s) < READS_WITHIN_S, took_s


def _connections(cluster: Servers) -> int:
    """Return how many connections the API has to the coordinator."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}'"
    ((count,),) = cluster.sql(COORDINATOR.host, query)
    assert isinstance(count, int)
    return count
