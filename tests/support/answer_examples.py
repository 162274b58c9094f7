"""Real answers of every resource for the examples of the OpenAPI document: requested, normalized, and compared."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
from api_support import ADMIN_TOKEN, READ_TOKEN, Api
from setup_support import ROOT
from sql_servers import NASTY_PASSWORD
from waiting import eventually

from admin_api.examples import FILE, RUNNING
from citus_cluster.operations.change import AnyChange
from citus_cluster.operations.registry import CHANGES, VIEWS

FIRST, SECOND, THIRD = "citus-worker1", "citus-worker2", "citus-worker3"
_PREFIX = "/api/v1"
_MOST_ROWS = 2
_AT_ONCE = 4
_BODIES: Mapping[str, Mapping[str, Any]] = {
    "activity-enable": {"feature": "statements", "every_node": True},
    "consistency-restore-point": {"name": "before-release-12"},
    "nodes-activate": {"node": THIRD},
    "nodes-drain": {"names": [SECOND]},
    "nodes-drain-undo": {"names": [SECOND]},
    "nodes-disable": {"node": SECOND},
    "nodes-set": {"node": SECOND, "holds_shards": False},
    "add-worker": {"host": THIRD},
    "nodes-add-inactive": {"host": THIRD},
    "nodes-add-secondary": {"host": THIRD, "primary": SECOND},
    "nodes-move": {"node": SECOND, "host": THIRD},
    "nodes-pause": {"node": SECOND, "reason": "new kernel"},
    "nodes-resume": {"node": SECOND},
    "nodes-remove": {"node": SECOND},
    "tables-distribute": {"table": "example.visits", "column": "customer_id"},
    "tables-reference": {"table": "example.countries"},
    "roles-create": {"name": "example_shop", "password": "at-least-8-chars"},
    "roles-password": {"name": "example_app", "password": "at-least-8-chars"},
    "roles-drop": {"name": "example_app"},
    "tables-undistribute": {"table": "example.invoices"},
    "tables-alter": {"table": "example.invoices", "shard_count": 8, "alone": True},
    "schemas-distribute": {"schema": "example_tenant_2"},
    "schemas-undistribute": {"schema": "example_tenant_1"},
    "shards-isolate": {"table": "example.customers", "value": "42", "cascade": True},
}
"""The bodies whose members are known beforehand, by the name of the change."""
_WAYS_BACK = {
    "nodes-activate": "nodes-add-inactive",
    "nodes-drain-undo": "nodes-set",
    "nodes-resume": "nodes-pause",
}
"""Changes whose plan has steps only after another change, with that one."""
_KEY = {"table": "example.customers", "value": "42"}
_QUERIES = {
    "shards-where": _KEY,
    "activity-statements": {"q": "FROM example.customers"},
    "activity-list": {"q": "example.customers"},
    "consistency-prepared": {"q": "example-"},
}
_SETTINGS = {
    "citus.stat_tenants_track": "all",
    # Nothing is dropped before the list of orphans was read.
    "citus.defer_shard_delete_interval": "-1",
    # It waits for a restart, which the list of differences shows.
    "max_files_per_process": "1001",
}


def _everywhere(*statements: str) -> tuple[str, ...]:
    on_workers = "SELECT nodename, result FROM run_command_on_workers($command${}$command$) WHERE NOT success"
    return tuple(one for statement in statements for one in (statement, on_workers.format(statement)))


_CLEAN_UP = (
    "DROP SCHEMA IF EXISTS example, example_tenant_1, example_tenant_2 CASCADE",
    "DROP TABLE IF EXISTS public.orders",
    f"SELECT citus_remove_node(nodename, nodeport) FROM pg_dist_node WHERE nodename = '{THIRD}'",
    "DELETE FROM pg_dist_cleanup WHERE node_group_id = 4711",
    "ALTER SYSTEM RESET citus.stat_statements_track",
    *_everywhere(*(f"ALTER SYSTEM RESET {name}" for name in _SETTINGS), "SELECT pg_reload_conf()"),
)
_PREPARATION = (
    # Only here, so that the plan to switch them on everywhere has steps.
    "ALTER SYSTEM SET citus.stat_statements_track = 'all'",
    *_everywhere(
        *(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in _SETTINGS.items()), "SELECT pg_reload_conf()"
    ),
    "CREATE EXTENSION IF NOT EXISTS pg_stat_statements",
    "CREATE SCHEMA example",
    "CREATE TABLE example.customers (id bigint PRIMARY KEY, name text)",
    "SELECT create_distributed_table('example.customers', 'id', shard_count => 4, colocate_with => 'none')",
    "INSERT INTO example.customers SELECT n, 'customer ' || n FROM generate_series(1, 1000) AS n",
    "SELECT name FROM example.customers WHERE id = 42",
    "CREATE TABLE example.invoices (customer_id bigint, number bigint, PRIMARY KEY (customer_id, number))",
    "SELECT create_distributed_table('example.invoices', 'customer_id', colocate_with => 'example.customers')",
    "CREATE TABLE example.orders (customer_id bigint, number bigint, PRIMARY KEY (customer_id, number))",
    "CREATE TABLE example.visits (customer_id bigint, seen_at timestamptz)",
    "CREATE TABLE example.countries (code text PRIMARY KEY)",
    "CREATE TABLE example.notes (id bigint)",
    "SET citus.enable_schema_based_sharding = on",
    "CREATE SCHEMA example_tenant_1",
    "CREATE TABLE example_tenant_1.users (id bigint PRIMARY KEY)",
    "RESET citus.enable_schema_based_sharding",
    "CREATE SCHEMA example_tenant_2",
    "CREATE TABLE example_tenant_2.users (id bigint PRIMARY KEY)",
    "INSERT INTO pg_dist_cleanup SELECT nextval('pg_dist_cleanup_recordid_seq'), "
    "nextval('pg_dist_operationid_seq'), 1, 'example.customers_102999', 4711, 1",
)


class Examples:
    """Requests every answer of an API once; ``answers`` are the unchanged ones, by operation id."""

    def __init__(self, api: Api, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._api = api
        self._connect = connect
        self.answers: dict[str, Any] = {}

    def record(self) -> dict[str, Any]:
        """Return the normalized answers. The cluster is afterwards as it was, without a third worker."""
        with self._connect() as session, self._prepared(session):
            self._ask_operations()
            self._move()
            with self._waiting_session() as global_pid:
                self._ask_views()
                self._ask_plans(global_pid)
            self._ask_plans_of_the_way_back()
        return normalized(self.answers)

    def _send(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> httpx.Response:
        response = self._api.client.request(method, path, headers=self._api.admin | dict(headers or {}), **more)
        assert response.status_code < 300, f"{method} {path}: {response.text}"
        return response

    def _keep(self, operation_id: str, method: str, path: str, **more: Any) -> None:
        self.answers[operation_id] = self._send(method, path, **more).json()

    @contextmanager
    def _prepared(self, session: psycopg.Connection[Any]) -> Iterator[None]:
        """Create what the answers show, whatever earlier tests have left."""
        _run(session, *_CLEAN_UP)
        _run(session, *_PREPARATION)
        self._send("POST", f"{_PREFIX}/roles", json=dict(_BODIES["roles-password"]))
        session.execute("BEGIN")
        session.execute("INSERT INTO example.notes VALUES (1)")
        session.execute("PREPARE TRANSACTION 'example-forgotten'")
        try:
            yield
        finally:
            _run(session, "ROLLBACK PREPARED 'example-forgotten'", *_CLEAN_UP)
            self._send("POST", f"{_PREFIX}/roles/drop", json=dict(_BODIES["roles-drop"]))

    def _ask_operations(self) -> None:
        """Cancel a distribution that waits for a lock, and resume it."""
        path = f"{_PREFIX}/tables/distribute"
        with self._connect() as holder:
            holder.execute("BEGIN")
            holder.execute("LOCK TABLE example.orders IN ROW EXCLUSIVE MODE")
            begun = self._send(
                "POST",
                path,
                {"Prefer": "respond-async"},
                json={"table": "example.orders", "column": "customer_id", "colocate_with": "example.customers"},
            ).json()
            address = f"{_PREFIX}/operations/{begun['id']}"
            eventually(lambda: self._send("GET", address).json()["events"] > 0)
            self._keep("operations-cancel", "POST", f"{address}/cancel?dry_run=true")
            self._send("POST", f"{address}/cancel")
            eventually(lambda: self._send("GET", address).json()["state"] == "cancelled")
            self._keep("operations-resume", "POST", f"{address}/resume?dry_run=true")
            self._keep(RUNNING, "POST", f"{address}/resume")
        eventually(lambda: self._send("GET", address).json()["state"] == "done")
        self._keep("operations-events", "GET", f"{address}/events")
        point = self._send("POST", f"{_PREFIX}/consistency/restore-points", json={"name": "before-release-11"}).json()
        self._keep("operations-get", "GET", f"{_PREFIX}/operations/{point['id']}")
        self._keep("operations-list", "GET", f"{_PREFIX}/operations?limit={_MOST_ROWS}")

    @contextmanager
    def _waiting_session(self) -> Iterator[int]:
        """Let one session wait for another, and yield the global pid of the one that waits."""
        update = b"UPDATE example.customers SET name = 'changed' WHERE id = 42"
        with self._connect() as holder, self._connect() as waiter:
            holder.execute("BEGIN")
            holder.execute(update)
            row = waiter.execute("SELECT citus_backend_gpid()").fetchone()
            assert row is not None
            thread = threading.Thread(target=waiter.execute, args=(update,))
            thread.start()
            try:
                eventually(lambda: self._send("GET", f"{_PREFIX}/activity/locks").json()["total"] > 0)
                yield row[0]
            finally:
                holder.execute("ROLLBACK")
                thread.join(60)

    def _ask_views(self) -> None:
        asked: dict[str, tuple[str, Mapping[str, str]]] = {
            name: (f"/{name.replace('-', '/')}", {}) for name in ("health", "health-live", "health-ready")
        }
        asked |= {
            "services-list": (f"{_PREFIX}/services", {}),
            "rebalance-status": (f"{_PREFIX}/rebalance", {}),
            "nodes-active": (f"{_PREFIX}/nodes/active", {}),
        }
        for view in VIEWS:
            query = _QUERIES.get(view.name, {}) | ({"limit": str(_MOST_ROWS)} if view.is_list else {})
            asked.setdefault(view.name, (f"{_PREFIX}/{view.path}", query))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda one: self._keep(one[0], "GET", one[1][0], params=one[1][1]), asked.items()))

    def _key(self) -> tuple[int, str]:
        """Return the shard of a customer, and a node without this shard."""
        found = self._send("GET", f"{_PREFIX}/shards/where", params=_KEY).json()
        return found["shard_id"], _other(found["locations"][0]["node"])

    def _move(self) -> None:
        """Move a shard, so that there is a job to show."""
        shard, node = self._key()
        path = f"{_PREFIX}/rebalance"
        earlier = self._send("GET", path).json()["job_id"]
        self._send("POST", f"{_PREFIX}/shards/move", json={"shard": shard, "node": node})

        def moved() -> bool:
            found = self._send("GET", path).json()
            return bool(found["job_id"] != earlier and found["state"] == "finished")

        eventually(moved, timeout_s=60)

    def _ask_plans(self, global_pid: int) -> None:
        shard, node = self._key()
        (tenant,) = self._send("GET", f"{_PREFIX}/schemas", params={"schema": "example_tenant_1"}).json()["items"]
        bodies = dict(_BODIES) | {
            "activity-cancel": {"global_pid": global_pid},
            "activity-terminate": {"global_pid": global_pid},
            "schemas-move": {"schema": "example_tenant_1", "node": _other(tenant["node"])},
            "shards-move": {"shard": shard, "node": node},
            "shards-split": {"shard": shard, "points": "half"},
        }
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            changes = [one for one in CHANGES if one.name not in _WAYS_BACK]
            list(pool.map(lambda one: self._plan(one, bodies.get(one.name, {})), changes))

    def _plan(self, change: AnyChange, body: Mapping[str, Any]) -> None:
        self._keep(change.name, "POST", f"{_PREFIX}/{change.path}?dry_run=true", json=dict(body))

    def _ask_plans_of_the_way_back(self) -> None:
        by_name = {one.name: one for one in CHANGES}
        for name, before in _WAYS_BACK.items():
            self._send("POST", f"{_PREFIX}/{by_name[before].path}", json=dict(_BODIES[before]))
            self._plan(by_name[name], _BODIES[name])
            if name != "nodes-activate":
                self._send("POST", f"{_PREFIX}/{by_name[name].path}", json=dict(_BODIES[name]))


def _other(node: str) -> str:
    return f"{FIRST}:5432" if node.startswith(SECOND) else f"{SECOND}:5432"


def _run(session: psycopg.Connection[Any], *statements: str) -> None:
    for statement in statements:
        cursor = session.execute(statement.encode())
        assert "run_command" not in statement or not cursor.rowcount, cursor.fetchall()


def write_examples(answers: Mapping[str, Any]) -> None:
    """Keep answers as the examples, from the next document on."""
    text = json.dumps(answers, indent=1, ensure_ascii=False) + "\n"
    assert not re.search(f"{ADMIN_TOKEN}|{READ_TOKEN}|{re.escape(NASTY_PASSWORD)}|127\\.0\\.0\\.1|172\\.", text)
    (ROOT / "admin_api" / FILE).write_text(text, encoding="utf-8")


_DURATIONS = re.compile(r"(^|_)(seconds|seconds_last_period|ms)$")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?")
_MINUTE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b(:\d+)?")
_PROCESS = re.compile(r"(session |pid |_backend\(|^\d-)(\d+)\b", re.IGNORECASE)
_GLOBAL_PID = re.compile(r"\b10{4,8}\d+\b")
_FIRST_GLOBAL_PID = 10_000_000_000
_LONG_NUMBER = re.compile(r"-?\b\d{15,}\b")
_FIXED: Mapping[str, Any] = {
    "lsn": "0/19E2238",
    "next_cursor": "W1siaWQiXSxbIjQyIl1d",
    "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "share": 0.5,
}
"""Values that are new in each run, by the name of their member."""


class _Normalizer:
    """Replaces what is new in each run. The same process or table has the same number everywhere."""

    def __init__(self) -> None:
        self._processes: dict[int, int] = {}
        self._oids: dict[int, int] = {}

    def process(self, number: int) -> int:
        return self._processes.setdefault(number, 42 + len(self._processes))

    def global_pid(self, number: int) -> int:
        return _FIRST_GLOBAL_PID + self.process(number - _FIRST_GLOBAL_PID)

    def value(self, value: Any, name: str = "") -> Any:
        match value:
            case dict():
                if value.get("host") == "127.0.0.1":
                    value = value | {"host": "citus-coordinator", "port": 5432}
                return {key: self.value(one, key) for key, one in value.items()}
            case list():
                rows = value[:_MOST_ROWS] if value and isinstance(value[0], dict) else value
                return [self.value(one, name) for one in rows]
            case None | bool():
                return value
            case _ if name in _FIXED:
                return _FIXED[name]
            case float() if _DURATIONS.search(name):
                return 1.5
            case int() if name in {"global_pid", "waits_for"}:
                return self.global_pid(value)
            case int() if name == "process_id":
                return self.process(value)
            case int() if name == "oid":
                return self._oids.setdefault(value, 16400 + len(self._oids))
            case str():
                return self.text(value)
        return value

    def text(self, text: str) -> str:
        text = _TIME.sub(lambda found: "2026-01-31T12:00:00" + ".123456"[: len(found[1] or "")], text)
        text = _MINUTE.sub("2026-01-31 12:00 UTC", text)
        text = _ADDRESS.sub(lambda found: "192.0.2.10" + (":50412" if found[1] else ""), text)
        text = _GLOBAL_PID.sub(lambda found: str(self.global_pid(int(found[0]))), text)
        text = _PROCESS.sub(lambda found: f"{found[1]}{self.process(int(found[2]))}", text)
        return _LONG_NUMBER.sub("4242424242424242424", text)


def normalized(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return answers with fixed ids, times and addresses, and at most two rows in each of their lists."""
    normalizer = _Normalizer()
    return {name: normalizer.value(answers[name]) for name in sorted(answers)}


def differences(kept: Any, fresh: Any, at: str = "") -> list[str]:
    """List where a fresh answer has other members or JSON types than a kept one.

    None stands for a value that may be missing, so it differs from nothing. A list may have rows that the kept one
    has not, but not the reverse; each of its rows must be like one of the kept ones.
    """
    match kept, fresh:
        case (None, _) | (_, None):
            return []
        case dict(), dict():
            found = [f"{at}.{key}: only in the kept answer" for key in kept.keys() - fresh.keys()]
            found += [f"{at}.{key}: only in the fresh answer" for key in fresh.keys() - kept.keys()]
            return found + [
                one for key in kept.keys() & fresh.keys() for one in differences(kept[key], fresh[key], f"{at}.{key}")
            ]
        case list(), list():
            if kept and not fresh:
                return [f"{at}: empty in the fresh answer"]
            rows = [[differences(one, row, f"{at}[{number}]") for one in kept] for number, row in enumerate(fresh)]
            return [one for row in rows if row for one in min(row, key=len)]
    if type(kept) is not type(fresh):
        return [f"{at}: {type(kept).__name__} in the kept answer, {type(fresh).__name__} in the fresh one"]
    return []
