"""The alert rules: each names what to do, is documented, and fires on the figures that it is for (promtool).

The queries of the dashboard are valid too.
"""

import subprocess
from pathlib import Path
from typing import Any

import dashboard_support
import pytest
import yaml
from cluster_support import require_images
from setup_support import ROOT

from citus_cluster.model.images import DEFAULT_MONITORING_IMAGE

FOLDER = ROOT / "config/monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
API = 'instance="api:8000", job="citus-cluster"'
UP = {f"citus_cluster_coordinator_up{{{API}}}": "1x300"}


def of(name: str, labels: str = "", values: str = "0x300") -> dict[str, str]:
    inner = f"{API}, {labels}" if labels else API
    return {f"citus_cluster_{name}{{{inner}}}": values}


NODE = 'node="citus-worker1:5432"'
SKEWED = {
    **of("node_shard_bytes", NODE, "9e9x300"),
    **of("node_shard_bytes", 'node="citus-worker2:5432"', "1e9x300"),
    **of("node_should_have_shards", NODE, "1x300"),
    **of("node_should_have_shards", 'node="citus-worker2:5432"', "1x300"),
}
FAULTS: dict[str, dict[str, str]] = {
    "CitusAdminApiDown": {f"up{{{API}}}": "0x300"},
    "CitusCoordinatorUnreachable": of("coordinator_up"),
    "CitusNodeDown": {**UP, **of("node_up", f'{NODE}, role="worker"')},
    "CitusWorkerNotRegistered": of("worker_registered", NODE),
    "CitusMetadataNotSynced": of("node_metadata_synced", NODE),
    "CitusRebalanceStuck": {
        **of("rebalance_active", "", "1x300"),
        **of("rebalance_shards", 'state="done"', "3x300"),
        **of("rebalance_bytes", 'state="done"', "7x300"),
    },
    "CitusRebalanceRetries": of("rebalance_troubled_tasks", "", "2x300"),
    "CitusShardSkew": SKEWED,
    "CitusCleanupBacklog": of("cleanup_records", "", "101x300"),
    "CitusOldPreparedTransaction": of("node_oldest_prepared_transaction_age_seconds", NODE, "601+60x300"),
    "CitusConnectionsNearLimit": {
        **of("node_connections", f'{NODE}, kind="external"', "50x300"),
        **of("node_connections", f'{NODE}, kind="internal"', "40x300"),
        **of("node_connections_limit", NODE, "100x300"),
    },
    "CitusSlotLag": of("node_replication_slot_lag_bytes", NODE, "11e9x300"),
    "CitusLostSlot": of("node_replication_slots", f'{NODE}, state="lost"', "1x300"),
    "CitusStandbyLag": of("node_replication_lag_bytes", NODE, "11e9x300"),
    "CitusReplicationLag": of("companion_replication_lag_bytes", 'service="pg14"', "2e9x300"),
    "CitusCompanionDown": of("companion_up", 'service="redis"'),
    "CitusDiskNearlyFull": {
        **of("disk_size_bytes", NODE, "100e9x300"),
        **of("disk_available_bytes", NODE, "10e9x300"),
    },
    "CitusFiguresStale": {**UP, **of("sample_age_seconds", 'part="nodes"', "301x300")},
}
"""Series that make each alert fire, and no other."""


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder.chmod(0o755)
    mount = f"{folder}:/rules:ro"
    command = ["docker", "run", "--rm", "--network=none", "-v", mount, "-w", "/rules", "--entrypoint=/bin/promtool"]
    return subprocess.run([*command, DEFAULT_MONITORING_IMAGE, *arguments], capture_output=True, text=True)


def test_each_alert_says_what_it_means_and_which_command_to_run() -> None:
    assert {rule["alert"] for rule in RULES} == FAULTS.keys()
    for rule in RULES:
        notes = rule["annotations"]
        assert notes.keys() == {"summary", "description", "runbook"}, rule["alert"]
        assert "citus-cluster " in notes["runbook"], rule["alert"]
        assert notes["summary"].endswith(".") and notes["description"].endswith("."), rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_each_alert_is_documented() -> None:
    text = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `Citus")}
    assert rows.keys() == FAULTS.keys()
    for rule in RULES:
        cells = [cell.strip() for cell in rows[rule["alert"]].split("|")]
        assert (cells[2], cells[3]) == (rule["labels"]["severity"], rule["for"]), rule["alert"]


@pytest.mark.cluster
def test_each_alert_fires_on_its_fault_and_no_other_does(tmp_path: Path) -> None:
    require_images(DEFAULT_MONITORING_IMAGE)
    for name in ("alerts.yml", "recording.yml"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    tests = []
    for fault, series in FAULTS.items():
        quiet = [{"expr": f'count(ALERTS{{alertname!="{fault}", alertstate="firing"}})', "eval_time": "2h"}]
        fires = [{"expr": f'count(ALERTS{{alertname="{fault}", alertstate="firing"}}) > bool 0', "eval_time": "2h"}]
        fires[0]["exp_samples"] = [{"labels": "{}", "value": 1}]  # type: ignore[assignment]
        inputs = [{"series": name, "values": values} for name, values in series.items()]
        tests.append({"name": fault, "interval": "30s", "input_series": inputs, "promql_expr_test": [*fires, *quiet]})
    whole = {"rule_files": ["recording.yml", "alerts.yml"], "evaluation_interval": "30s", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(whole))
    checked = promtool(tmp_path, "check", "rules", "alerts.yml", "recording.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = promtool(tmp_path, "test", "rules", "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.cluster
def test_the_settings_are_valid(tmp_path: Path) -> None:
    require_images(DEFAULT_MONITORING_IMAGE)
    for name in ("alerts.yml", "recording.yml"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    expected = ROOT / "tests/golden/expected/monitoring/made/config/monitoring/prometheus.yml.txt"
    (tmp_path / "prometheus.yml").write_text(expected.read_text())
    done = promtool(tmp_path, "check", "config", "--syntax-only", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.cluster
def test_the_queries_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    require_images(DEFAULT_MONITORING_IMAGE)
    found = list(dashboard_support.queries("api:8000"))
    rules = [{"record": f"query{place}", "expr": expression} for place, (_, expression, _) in enumerate(found)]
    (tmp_path / "dashboard.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool(tmp_path, "check", "rules", "dashboard.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(found)} rules found" in done.stdout
