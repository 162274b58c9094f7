"""What every component needs so that the code that loops over all finds it; one that lacks a part fails here.

docs/architecture.md, "Adding a service", has the list of these parts.
"""

from typing import Any

import pytest
from setup_support import ROOT

from citus_cluster.model import component_name, spec
from citus_cluster.model.component import Component
from citus_cluster.model.component_name import GROUPS, ComponentName
from citus_cluster.model.components import COMPANIONS, COMPONENTS, owner_of
from citus_cluster.model.components.citus import CITUS
from citus_cluster.model.spec import API_VERSION, Images, Ports
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import Topology, resolve, unmet_needs
from citus_cluster.runtime.probes.registry import PROBES

EVERY = pytest.mark.parametrize("name", ComponentName)


def parsed(**data: Any) -> spec.ClusterSpec:
    return parse_spec({"apiVersion": API_VERSION, **data})


@pytest.fixture(scope="module")
def everything() -> Topology:
    topology, _ = resolve(parsed(services=[*ComponentName]), memory_mb=64_000, cpus=4, pg_major=17)
    return topology


@EVERY
def test_a_component_is_declared(name: ComponentName) -> None:
    assert name in COMPONENTS, f"add {name} to COMPONENTS in citus_cluster/model/components/__init__.py"


@EVERY
def test_a_component_has_a_port_and_an_image_with_an_option(name: ComponentName) -> None:
    for group in (Ports, Images):
        assert name.key in group.model_fields, f"add {name.key} to {group.__name__} in citus_cluster/model/spec.py"
    assert COMPONENTS[name].port_option.startswith("--")
    assert COMPONENTS[name].image_option.startswith("--")


def test_a_group_has_a_field_for_components_alone() -> None:
    """A misspelled field would have no component, and its option no effect."""
    keys = {name.key for name in ComponentName}
    assert set(Ports.model_fields) == keys
    assert set(Images.model_fields) - {"pg_major"} == keys


@pytest.mark.parametrize("name", COMPANIONS)
def test_a_companion_has_a_probe(name: ComponentName) -> None:
    assert name in PROBES, f"add the probe of {name} to PROBES in citus_cluster/runtime/probes/registry.py"


@EVERY
def test_the_services_of_a_component_have_their_templates(name: ComponentName, everything: Topology) -> None:
    services = everything.of(name)
    assert services, f"{name} has no services"
    for service in services:
        assert owner_of(service.name) is COMPONENTS[name], f"owns of {name} must match its service {service.name}"
        needed = [f"compose_templates/{service.template}"]
        needed += [f"config/{file.template}" for file in service.files if file.template]
        assert [path for path in needed if not (ROOT / path).is_file()] == []


def test_options_follow_from_the_specification() -> None:
    options = {name.value: (one.port_option, one.image_option) for name, one in COMPONENTS.items()}
    assert options["citus"] == ("--port", "--citus-image")
    assert options["admin-api"] == ("--admin-port", "--admin-api-image")
    with pytest.raises(LookupError, match=r"NodeSettings\.worker declares no option"):
        spec.option_of(spec.NodeSettings, "worker")


def test_a_key_in_a_file_has_no_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is not wanted would stay in ``cluster.yaml``."""
    monkeypatch.setattr(spec, "_ADMINISTRATION", (ComponentName.CITUS,))
    assert "admin_api" not in parsed(services=["citus"]).as_data()["ports"]
    assert "admin_api" in parsed(services=["citus", "admin-api"]).as_data()["ports"]


def test_what_all_leaves_out_is_named_where_it_is_explained() -> None:
    left_out = set(ComponentName) - set(GROUPS["all"])
    assert left_out == set(component_name.OPT_IN)
    field = spec.ClusterSpec.model_fields["services"]
    flag = spec.flag_of(field)
    assert flag
    for text in (flag.help, field.description):
        assert text
        assert all(name in text.rpartition("all")[2] for name in left_out)


class Application(Component):
    """A component that uses a database of each kind."""

    name = ComponentName.REDIS
    needs = (ComponentName.CITUS, ComponentName.PG14)


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        ({"services": ["citus", "pg14", "redis"]}, []),
        ({"services": ["citus", "redis"]}, ["redis needs pg14 in this directory: add pg14 to the services"]),
        ({"services": ["redis"]}, ["redis needs citus in this directory", "redis needs pg14 in this directory"]),
        (
            {"services": ["citus", "pg14", "redis"], "coordinator": False, "advertise": "db2"},
            ["redis needs a coordinator in this directory: remove redis"],
        ),
    ],
)
def test_a_component_names_what_it_needs(data: dict[str, Any], problems: list[str]) -> None:
    told = list(unmet_needs(Application(), parsed(**data)))
    assert len(told) == len(problems)
    assert all(problem in text for problem, text in zip(problems, told, strict=True))


def test_pgbouncer_needs_a_coordinator() -> None:
    told = list(unmet_needs(COMPONENTS[ComponentName.PGBOUNCER], parsed(services=["pgbouncer"])))
    assert [text.partition(" in this")[0] for text in told] == ["services: pgbouncer needs citus"]


def test_a_component_without_secrets_has_no_password() -> None:
    assert Application().password is None
    assert CITUS.password is CITUS.secrets[0]
