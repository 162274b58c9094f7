"""Images that must not become older: those of services beside Citus that keep data."""

from typing import Any

import pytest

from citus_cluster.errors import ImmutableError
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.identity import identity_of, refuse_immutable
from citus_cluster.model.spec import API_VERSION
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import Topology, resolve

SERVICES = ["citus", "redis", "pgbouncer"]


def topology_of(**images: str) -> Topology:
    data: dict[str, Any] = {"apiVersion": API_VERSION, "services": SERVICES, "images": images}
    topology, _ = resolve(parse_spec(data), memory_mb=8000, cpus=2, pg_major=17)
    return topology


def change(before: Topology, after: Topology) -> None:
    earlier = identity_of(before, {})
    refuse_immutable(earlier, identity_of(after, earlier), after)


def test_an_older_image_is_refused_where_data_were_written() -> None:
    change(topology_of(redis="redis:7"), topology_of(redis="redis:8"))
    with pytest.raises(ImmutableError) as refused:
        change(topology_of(redis="redis:8"), topology_of(redis="redis:7"))
    assert refused.value.details == ("image of redis: redis:8 → redis:7",)


def test_a_service_without_data_takes_an_older_image() -> None:
    newer, older = (f"ghcr.io/cloudnative-pg/pgbouncer:1.{minor}" for minor in (26, 24))
    change(topology_of(pgbouncer=newer), topology_of(pgbouncer=older))
    # Earlier versions recorded it.
    earlier = {**identity_of(topology_of(), {}), "companions": {"pgbouncer": newer}}
    after = topology_of(pgbouncer=older)
    refuse_immutable(earlier, identity_of(after, earlier), after)


def test_an_image_that_is_built_here_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = topology_of()
    monkeypatch.setattr(type(COMPONENTS[ComponentName.REDIS]), "image", lambda self, spec: None)
    built = topology_of()
    assert built.service("redis").image is None
    change(built, built)
    change(before, built)
