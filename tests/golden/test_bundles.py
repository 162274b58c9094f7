"""Whole bundles, compared with the files in expected/; ``pytest --update-golden`` writes those anew."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from setup_support import CPUS, ROOT

from citus_cluster.model.api_config import hash_token
from citus_cluster.model.component_name import EXAMPLES
from citus_cluster.model.images import known_pg_major
from citus_cluster.model.spec import API_VERSION
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import resolve
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.render.bundle import render_bundle
from citus_cluster.render.spec_file import render_spec
from citus_cluster.runtime.store.resources import load_sources

EXPECTED = Path(__file__).parent / "expected"
SECRETS = {
    "admin_api_token": "an admin's token",
    "admin_api_read_token": "a reader's token",
    "monitoring_token": "a token of Prometheus",
    "redis_password": "Pa55 of Redis",
    "example_replication_redis_password": "Pa55 of the read/write split example",
    "example_sharding_redis_password": "Pa55 of the consistent hashing example",
}
MEMORY_MB = 7840
RESOURCES = {"memory_mb": MEMORY_MB, "cpus": CPUS}
CASES: dict[str, dict[str, Any]] = {
    "default": {"workers": 3, "resources": RESOURCES},
    "companions": {
        "services": ["pg14", "redis", "cassandra"],
        "bind": "192.0.2.7",
        "ports": {"pg14": 15432, "redis": 16379, "cassandra": 19042},
        "resources": RESOURCES,
        "pg14": {"replication": "sync", "log": "verbose"},
        "redis": {"maxmemory_policy": "allkeys-lru"},
        "cassandra": {"nodes": 3},
        "settings": {"pg14": {"work_mem": "5MB", "statement_timeout": "1min"}},
    },
    "pgbouncer": {
        "services": ["citus", "admin-api", "pgbouncer"],
        "database": "shop",
        "ports": {"pgbouncer": 16432},
        "resources": RESOURCES,
        "pgbouncer": {"max_clients": 2000},
    },
    "monitoring": {
        "services": ["citus", "admin-api", "monitoring"],
        "ports": {"monitoring": 19090},
        "resources": RESOURCES,
        "monitoring": {"retention_days": 30, "retention_mb": 2048},
    },
    "workers-only": {"workers": 2, "coordinator": False, "advertise": "192.0.2.11", "resources": RESOURCES},
    "postgresql18": {
        "name": "shop",
        "workers": [1, 3],
        "services": ["citus", "admin-api"],
        "images": {"citus": "citusdata/citus:14.0.1"},
        "resources": RESOURCES | {"workload": "oltp", "storage": "nvme"},
        "settings": {
            "coordinator": {"log_min_duration_statement": "250ms"},
            "nodes": {"citus-worker3": {"work_mem": "6MB", "search_path": "it's, $user"}},
        },
    },
}
CASES["examples"] = {
    "services": ["citus", "pg14", "redis", "cassandra", "admin-api", *EXAMPLES],
    "resources": {"memory_mb": 15900, "cpus": 4},
}
GROWN = {
    "memory_mb": 15900,
    "workers": 4,
    "clients": 80,
    "servers": {"coordinator": 2500, "worker": 2500},
    "nodes": {"citus-worker6": 1900},
}
CASES["grown"] = {
    "services": ["citus", "redis"],
    "workers": [1, 2, 3, 4, 6],
    "resources": {"memory_mb": 15900, "cpus": 4, "shared": GROWN},
}
SAMPLES = ["cluster.minimal.yaml", "cluster.full.yaml", "cluster.workers-only.yaml"]


def bundle_of(data: dict[str, Any]) -> dict[str, str]:
    """Render a bundle with cluster.yaml, as text by path."""
    spec = parse_spec(data)
    memory_mb, cpus = spec.resources.memory_mb or MEMORY_MB, spec.resources.cpus or CPUS
    pg_major = spec.images.pg_major or known_pg_major(spec.images.citus)
    assert pg_major
    topology, _ = resolve(spec, memory_mb=memory_mb, cpus=cpus, pg_major=pg_major)
    files = render_bundle(
        topology,
        load_sources(),
        digests={name: hash_token(secret) for name, secret in SECRETS.items()},
        gitignore=None,
    )
    texts = {path: file.content.decode() for path, file in files.items() if not path.endswith(".whl")}
    return texts | {"cluster.yaml": render_spec(spec, None)}


def examples() -> dict[str, dict[str, Any]]:
    found = {}
    for name in SAMPLES:
        found[name] = load_yaml((ROOT / "config" / name).read_text(encoding="utf-8"), name)
    return found


def all_cases() -> dict[str, dict[str, Any]]:
    return {name: {"apiVersion": API_VERSION, **data} for name, data in CASES.items()} | examples()


@pytest.fixture(params=[*CASES, *SAMPLES])
def bundle(request: pytest.FixtureRequest) -> dict[str, str]:
    return bundle_of(all_cases()[request.param])


@pytest.fixture
def services(bundle: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = load_yaml(bundle["docker-compose.yml"], "")["services"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_bundle_is_as_expected(case: str, request: pytest.FixtureRequest) -> None:
    """The wheel of the admin API and the constraints are left out: they change with the code, and with a release."""
    rendered = {
        path: re.sub("(citus-cluster-(?:admin-api|example-[a-z]+)):[0-9a-f]{12}", r"\1:0123456789ab", text)
        for path, text in bundle_of({"apiVersion": API_VERSION, **CASES[case]}).items()
        if not path.endswith("constraints.txt") and not path.startswith("generated/examples/")
    }
    folder = EXPECTED / case
    if request.config.getoption("--update-golden"):
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in rendered.items():
            (folder / _kept_as(path)).parent.mkdir(parents=True, exist_ok=True)
            (folder / _kept_as(path)).write_text(text, encoding="utf-8")
    expected = {
        p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.is_file()
    }
    assert {_kept_as(path): text for path, text in rendered.items()} == expected


def _kept_as(path: str) -> str:
    """Name of a file below expected/: git would ignore most under their own names."""
    return path.replace("generated/", "made/") + ".txt" if "/" in path else path.lstrip(".") + ".txt"


def test_compose_files_are_valid_by_the_official_schema(bundle: dict[str, str]) -> None:
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(load_yaml(bundle["docker-compose.yml"], ""))


@cache
def has_compose() -> bool:
    command = ["docker", "compose", "version"]
    return bool(shutil.which("docker")) and not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize("case", [*CASES, "cluster.full.yaml"])
def test_docker_compose_accepts_the_file(case: str, tmp_path: Path) -> None:
    bundle = bundle_of(all_cases()[case])
    if not has_compose():
        pytest.skip("docker compose is not installed here")
    for path, text in bundle.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    command = ["docker", "compose", "--project-directory", str(tmp_path), "config", "--format", "json"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    assert set(json.loads(made.stdout)["services"]) == set(load_yaml(bundle["docker-compose.yml"], "")["services"])


def test_no_two_services_share_a_host_port(services: dict[str, Any]) -> None:
    ports = [port.rpartition(":")[0] for service in services.values() for port in service["ports"]]
    assert len(set(ports)) == len(ports)


def test_every_service_is_complete(services: dict[str, Any]) -> None:
    required = {"image", "container_name", "healthcheck", "restart", "mem_limit", "stop_grace_period"}
    assert {name: missing for name, service in services.items() if (missing := required - set(service))} == {}
    for service in services.values():
        assert re.fullmatch(r".+:[\w.-]+", service["image"])
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["cap_drop"] == ["ALL"]


def test_all_nodes_stop_at_once(services: dict[str, Any]) -> None:
    """One that ends after the others sends cancel requests to addresses that are gone, and waits for them."""
    for name, service in services.items():
        assert "depends_on" not in service
        assert ("sysctls" in service) == name.startswith("citus-")


def test_every_log_is_bounded(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["logging"]["driver"] == "json-file"
        assert re.fullmatch(r"\d+m", service["logging"]["options"]["max-size"])
        assert int(service["logging"]["options"]["max-file"]) > 1


def test_logs_are_left_to_the_engine_or_another_driver_where_asked() -> None:
    data = {"apiVersion": API_VERSION, **CASES["default"]}
    bundle = bundle_of(data | {"logging": {"driver": "engine"}})
    assert "logging" not in bundle["docker-compose.yml"]
    bundle = bundle_of(data | {"logging": {"driver": "local", "max_size_mb": 3}})
    found = [service["logging"] for service in load_yaml(bundle["docker-compose.yml"], "")["services"].values()]
    assert found == [{"driver": "local", "options": {"max-size": "3m", "max-file": "5"}}] * len(found)


def test_the_compose_file_is_flat_and_interpolates_nothing(bundle: dict[str, str]) -> None:
    text = bundle["docker-compose.yml"]
    tokens = {type(token).__name__ for token in yaml.scan(text, Loader=yaml.CSafeLoader)}
    assert not tokens & {"AnchorToken", "AliasToken"}
    data = load_yaml(text, "")
    assert not {"include", "extends"} & {*data, *(key for service in data["services"].values() for key in service)}
    assert "$" not in text.replace("$$", "")


def test_every_mounted_file_is_in_the_bundle(bundle: dict[str, str], services: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service.get("volumes", ()):
            if isinstance(volume, dict):
                source = volume["source"].removeprefix("./")
                if not volume.get("read_only"):
                    assert source == "generated/journal/admin-api"
                    continue
                assert source in bundle or any(path.startswith(f"{source}/") for path in bundle)


def test_only_hashes_of_tokens_are_written(bundle: dict[str, str]) -> None:
    tokens = bundle.get("generated/config/admin-api/tokens.json")
    if tokens is not None:
        admin, read = SECRETS["admin_api_token"], SECRETS["admin_api_read_token"]
        services = {"services": {"prometheus": hash_token(SECRETS["monitoring_token"])}}
        wanted = services if "generated/config/monitoring/prometheus.yml" in bundle else {}
        assert json.loads(tokens) == {"admin": hash_token(admin), "read": hash_token(read), **wanted}
    assert not [path for path, text in bundle.items() for secret in SECRETS.values() if secret in text]


def test_env_repeats_what_people_look_for() -> None:
    env = bundle_of({"apiVersion": API_VERSION, **CASES["postgresql18"]})[".env"]
    values = dict(line.split("=", 1) for line in env.splitlines() if not line.startswith("#"))
    assert values == {
        "COMPOSE_PROJECT_NAME": "shop",
        "COMPOSE_PROFILES": "citus,admin-api",
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": "postgres",
        "CITUS_COORDINATOR_PORT": "5434",
        "CITUS_WORKER1_PORT": "5435",
        "CITUS_WORKER3_PORT": "5437",
        "ADMIN_API_PORT": "8000",
    }
