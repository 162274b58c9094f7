"""A server that others reach by an address: what is published, said and hinted at."""

from pathlib import Path

import pytest
from setup_support import plan, set_up

from citus_cluster.errors import ImmutableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.yaml_text import load_yaml

HERE = {"advertise": "10.0.0.10", "services": ["citus", "admin-api"]}


def published(root: Path) -> dict[str, list[str]]:
    data = load_yaml((root / "docker-compose.yml").read_text(), "docker-compose.yml")
    assert isinstance(data, dict)
    return {name: service["ports"] for name, service in data["services"].items()}


def test_the_ports_of_citus_alone_are_published_there_too(tmp_path: Path) -> None:
    made = set_up(tmp_path, {**HERE, "workers": 1})
    assert published(tmp_path) == {
        "citus-coordinator": ["127.0.0.1:5434:5432", "10.0.0.10:5434:5432"],
        "citus-worker1": ["127.0.0.1:5435:5432", "10.0.0.10:5435:5432"],
        "admin-api": ["127.0.0.1:8000:8000"],
    }
    assert [node.address for node in made.topology.nodes] == [
        NodeAddress("10.0.0.10", 5434),
        NodeAddress("10.0.0.10", 5435),
    ]
    assert any("127.0.0.1 and 10.0.0.10" in warning and "must be trusted" in warning for warning in made.warnings)


def test_an_ipv6_address_is_warned_about(tmp_path: Path) -> None:
    assert any("IPv6" in warning for warning in plan(tmp_path, {**HERE, "advertise": "fd00::2"}).warnings)
    assert not any("IPv6" in warning for warning in plan(tmp_path, HERE).warnings)


def test_an_address_that_was_mistyped_is_corrected_before_the_first_start(tmp_path: Path) -> None:
    set_up(tmp_path, {**HERE, "advertise": "10.9.9.9"})
    password = (tmp_path / "generated/secrets/superuser_password").read_bytes()
    with pytest.raises(ImmutableError, match="cannot change") as caught:
        set_up(tmp_path, HERE)
    assert (
        caught.value.hint
        and "remove generated/manifest.json and run the command again with --force" in caught.value.hint
    )
    (tmp_path / "generated/manifest.json").unlink()
    set_up(tmp_path, HERE, replace_edited=True)
    assert published(tmp_path)["citus-coordinator"] == ["127.0.0.1:5434:5432", "10.0.0.10:5434:5432"]
    assert (tmp_path / "generated/secrets/superuser_password").read_bytes() == password
    assert plan(tmp_path).nothing_to_do


@pytest.mark.parametrize(
    ("host", "command"),
    [
        ("citus-worker12", "docker compose logs citus-worker12"),
        ("citus-coordinator", "docker compose logs citus-coordinator"),
        ("10.0.0.12", "docker compose logs, on 10.0.0.12"),
        ("db2.example.com", "docker compose logs, on db2.example.com"),
    ],
)
def test_hints_name_the_server_to_look_at(host: str, command: str) -> None:
    node = NodeAddress(host, 5435)
    assert node.compose_command("logs") == command
    assert command in node.silence_hint
    assert node.is_service is host.startswith("citus-")
