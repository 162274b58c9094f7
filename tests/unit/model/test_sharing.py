"""How memory is shared among servers that run: what they have stays, and what is new gets what is left."""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
from setup_support import CPUS

from citus_cluster.errors import DoesNotFitError
from citus_cluster.model.component_name import ALL, EXAMPLES, ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.sharing import has_room_for_a_worker, with_earlier_shares, with_shares
from citus_cluster.model.spec import API_VERSION, ClusterSpec, grown_workers, without_worker
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import Topology, resolve
from citus_cluster.model.tuning.budget import OWN_SESSIONS, SUPERUSER_RESERVED, USABLE_PART
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.render.bundle import Sources, render_bundle
from citus_cluster.runtime.store.resources import load_sources

SMALL = (ComponentName.CITUS, ComponentName.ADMIN_API)


@cache
def sources() -> Sources:
    return replace(load_sources(), contexts={name: {} for name in load_sources().contexts})


@dataclass
class Cluster:
    """A cluster that is changed step by step, as a set-up does it; ``containers`` is what Compose sees of it."""

    spec: ClusterSpec
    memory_mb: int = 0
    containers: Mapping[str, Any] = field(default_factory=dict)

    def change(self, *, retune: bool = False, **values: Any) -> set[str]:
        """Take other values; give the services that Compose would make anew. One that is refused changes nothing."""
        data = self.spec.as_data()
        for key, value in values.items():
            data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
        known = set(self.spec.worker_numbers) if self.containers else None
        spec = with_shares(parse_spec(data), known=known, retune=retune)
        before, self.spec = self.containers, spec
        self.containers = load_yaml(self.files["docker-compose.yml"], "")["services"]
        return {name for name in before if name in self.containers and before[name] != self.containers[name]}

    def grow(self, workers: int) -> set[str]:
        return self.change(workers=grown_workers(self.spec.workers, workers))

    @property
    def topology(self) -> Topology:
        memory_mb = self.spec.resources.memory_mb
        assert memory_mb
        return resolve(self.spec, memory_mb=memory_mb, cpus=self.spec.resources.cpus or CPUS, pg_major=17)[0]

    @property
    def files(self) -> dict[str, str]:
        digests = {one.name: "0" * 64 for component in COMPONENTS.values() for one in component.secrets}
        files = render_bundle(self.topology, sources(), digests=digests, gitignore=None)
        return {path: file.content.decode() for path, file in files.items() if not path.endswith(".whl")}

    @property
    def limits(self) -> dict[str, int]:
        return {name: int(one["mem_limit"].removesuffix("m")) for name, one in self.containers.items()}

    def setting(self, service: str, name: str) -> str:
        return next(one.value for one in self.topology.service(service).settings if one.name == name)

    def number(self, service: str, name: str) -> int:
        return int(self.setting(service, name))


def cluster(memory_mb: int, *, workers: int = 3, services: Any = SMALL, cpus: int = CPUS, **resources: Any) -> Cluster:
    data = {
        "apiVersion": API_VERSION,
        "workers": workers,
        "services": list(services),
        "resources": {"memory_mb": memory_mb, "cpus": cpus, **resources},
    }
    made = Cluster(parse_spec(data))
    assert made.change() == set()
    return made


def kept(made: Cluster) -> Any:
    assert made.spec.resources.shared
    return made.spec.resources.shared


@pytest.mark.parametrize(
    ("memory_mb", "services", "planned", "clients", "limit_mb"),
    [
        (7_840, ALL, 3, 27, 1_091),  # no room: fewer than 20 clients would be left
        (7_840, SMALL, 4, 39, 1_372),
        (15_900, ALL, 5, 64, 1_815),
        (64_000, ALL, 5, 100, 8_000),
    ],
)
def test_a_new_cluster_has_room_for_more_workers_where_that_leaves_enough(
    memory_mb: int, services: Any, planned: int, clients: int, limit_mb: int
) -> None:
    made = cluster(memory_mb, services=services)
    assert (kept(made).workers, kept(made).clients) == (planned, clients)
    assert made.limits["citus-coordinator"] == made.limits["citus-worker3"] == limit_mb
    assert made.topology.tuning.connections == clients


def test_the_planned_workers_change_no_container() -> None:
    made = cluster(15_900, services=ALL)
    before = made.containers
    assert made.grow(4) == set()
    assert made.grow(5) == set()
    assert {name: made.containers[name] for name in before} == before
    assert made.limits["citus-worker5"] == made.limits["citus-worker1"]
    assert made.containers["citus-worker5"]["volumes"][1]["source"] == "./generated/config/worker"


def test_one_worker_more_than_planned_is_refused_with_what_would_fit() -> None:
    made = cluster(15_900, services=ALL)
    before = made.containers
    with pytest.raises(DoesNotFitError) as refused:
        made.grow(6)
    assert "3 new workers need 1,815 MB of memory each, but only 3,636 MB are left" in refused.value.message
    assert "--workers=5, or --retune" in (refused.value.hint or "")
    assert made.containers == before
    made.grow(5)
    with pytest.raises(DoesNotFitError) as refused:
        made.grow(6)
    assert "1 new worker needs 1,815 MB of memory, but only 6 MB are left" in refused.value.message
    assert "--workers" not in (refused.value.hint or "")


def test_whether_the_next_worker_needs_a_retune() -> None:
    """The commands that ``up`` suggests depend on it."""
    made = cluster(15_900, services=ALL)
    assert has_room_for_a_worker(made.spec)
    made.grow(5)
    assert not has_room_for_a_worker(made.spec)
    assert not has_room_for_a_worker(cluster(7_840, services=ALL).spec)


def test_sharing_anew_makes_room_again() -> None:
    made = cluster(15_900)
    assert made.change(workers=6, retune=True) >= {"citus-coordinator", "citus-worker1"}
    assert kept(made).workers == 8
    assert made.grow(8) == set()


def test_another_memory_is_shared_anew() -> None:
    made = cluster(15_900)
    assert "citus-worker1" in made.change(resources={"memory_mb": 20_000})
    assert kept(made).memory_mb == 20_000
    assert made.change(resources={"memory_mb": 20_000}) == set()


def test_a_worker_that_leaves_frees_its_share() -> None:
    made = cluster(15_900)
    made.grow(5)
    assert made.change(workers=without_worker(made.spec.workers, 2)) == set()
    assert made.grow(5) == set()
    assert made.spec.worker_numbers == (1, 3, 4, 5, 6)


def test_all_workers_may_leave_and_the_coordinator_holds_the_shards() -> None:
    made = cluster(15_900, workers=1)
    assert made.change(workers=0) == set()
    clients, pool = (
        made.number("citus-coordinator", name)
        for name in ("citus.max_client_connections", "citus.max_shared_pool_size")
    )
    assert pool >= OWN_SESSIONS
    assert clients + pool + SUPERUSER_RESERVED <= made.number("citus-coordinator", "max_connections")


@pytest.mark.parametrize("cpus", [2, 32])
def test_a_coordinator_alone_gets_workers(cpus: int) -> None:
    made = cluster(32_000, workers=0, cpus=cpus)
    assert kept(made).holds_shards
    assert made.grow(1) == set()
    assert made.grow(2) == set()
    pool = made.number("citus-coordinator", "citus.max_shared_pool_size")
    assert pool < made.number("citus-worker1", "max_connections")


def test_what_a_service_leaves_is_there_for_workers_beyond_the_plan() -> None:
    made = cluster(15_900, services=ALL)
    made.grow(5)
    made.change(services=[*SMALL, "redis"])
    connections = made.number("citus-coordinator", "max_connections")
    clients = made.topology.tuning.connections
    assert made.grow(6) == set()
    assert made.number("citus-coordinator", "max_connections") == connections
    assert made.topology.tuning.connections == clients - 4, "what the nodes open between each other comes from them"


def test_a_worker_may_get_less_than_the_others_and_keeps_it() -> None:
    made = cluster(15_900, services=ALL)
    made.grow(5)
    made.change(services=[*SMALL, "pg14"])
    assert made.grow(6) == set()
    assert kept(made).nodes == {"citus-worker6": 1414}
    assert made.limits["citus-worker6"] == 1414
    assert made.setting("citus-worker6", "max_connections") == made.setting("citus-worker1", "max_connections")
    assert "RAM=1414MB" in made.files["generated/config/citus-worker6/postgresql.conf"]
    assert made.change(settings={"worker": {"work_mem": "3MB"}}) == set()
    assert made.change(workers=[1, 2, 3, 4, 5]) == set()
    assert kept(made).nodes is None


def test_a_service_switched_on_takes_what_is_left() -> None:
    made = cluster(15_900)
    changed = made.change(services=[*SMALL, "redis", "pg14"])
    assert changed == {"admin-api"}, "it gets their passwords"
    assert made.limits["pg14-primary"] == made.limits["citus-worker1"] // 2
    assert made.change(services=list(SMALL)) == {"admin-api"}
    assert made.grow(5) == set()


def test_a_service_that_does_not_fit_is_refused() -> None:
    made = cluster(7_840, services=(*SMALL, "redis"), workers=3)
    made.grow(kept(made).workers)
    with pytest.raises(DoesNotFitError, match="more memory than is available") as refused:
        made.change(services=[*SMALL, "redis", "cassandra"])
    assert "--retune" in (refused.value.hint or "")


def test_connections_that_are_asked_for_win_where_they_fit() -> None:
    made = cluster(15_900)
    with pytest.raises(DoesNotFitError, match="as it is divided now") as refused:
        replace(made).change(resources={"connections": 120})
    assert "--retune" in (refused.value.hint or "")
    assert "citus-coordinator" in made.change(resources={"connections": 60})
    assert made.topology.tuning.connections == 60
    assert made.grow(5) == set()
    with pytest.raises(DoesNotFitError) as refused:
        _ = (made.change(resources={"connections": 2000}), made.topology)
    assert "--connections=" in (refused.value.hint or "")


def test_a_setting_of_the_users_own_wins() -> None:
    made = cluster(15_900)
    assert made.change(settings={"worker": {"shared_buffers": "256MB"}}) == {
        f"citus-worker{number}" for number in (1, 2, 3)
    }
    assert made.grow(4) == set()
    assert made.setting("citus-worker4", "shared_buffers") == "256MB"


def test_a_cluster_that_does_not_fit_keeps_nothing() -> None:
    data = {"apiVersion": API_VERSION, "resources": {"memory_mb": 1000, "cpus": 2, "detected": ["memory_mb"]}}
    assert with_shares(parse_spec(data), known=None).resources.shared is None
    assert with_shares(parse_spec({**data, "services": ["redis"]}), known=None).resources.shared is None


def test_companions_without_a_share_keep_nothing() -> None:
    data = {"apiVersion": API_VERSION, "services": ["redis"], "resources": {"memory_mb": 4000, "cpus": 2}}
    assert with_shares(parse_spec(data), known=None).resources.shared is None
    assert with_earlier_shares(parse_spec(data), parse_spec(data), {"redis": 128}, 17).resources.shared is None


def test_a_copied_specification_that_no_longer_fits_starts_anew() -> None:
    made = cluster(15_900)
    data = made.spec.as_data() | {"workers": 7}
    copied = with_shares(parse_spec(data), known=None)
    assert copied.resources.shared
    assert copied.resources.shared.workers == 9


def steps(chance: random.Random, made: Cluster) -> Iterator[dict[str, Any]]:
    """Give changes of which none is a wish to share the memory anew."""
    numbers = made.spec.worker_numbers
    yield {"workers": grown_workers(made.spec.workers, len(numbers) + chance.randint(1, 3))}
    if len(numbers) > 1:
        yield {"workers": without_worker(made.spec.workers, chance.choice(numbers))}
    companions = [one for one in ComponentName if one not in SMALL and chance.random() < 0.5]
    wanted = [*SMALL, *companions]
    yield {"services": [one for one in wanted if set(COMPONENTS[one].needs) <= {*wanted}]}
    yield {"settings": {"coordinator": {"work_mem": f"{chance.randint(2, 9)}MB"}}}
    yield {"cassandra": {"nodes": made.spec.cassandra.nodes + 1}}


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_and_goes_no_server_restarts_and_the_limits_stay_within_the_memory(seed: int) -> None:
    chance = random.Random(seed)
    made = cluster(
        chance.choice([7_840, 12_000, 15_900, 24_100, 64_000]),
        workers=chance.randint(0, 5),
        services=chance.choice([SMALL, (*SMALL, "redis"), (*SMALL, "pg14")]),
        cpus=chance.choice([1, 2, 8, 64]),
        workload=chance.choice(["web", "mixed", "olap"]),
    )
    for _ in range(12):
        values = chance.choice([*steps(chance, made)])
        try:
            changed = made.change(**values)
        except DoesNotFitError as refused:
            assert re.search(r"--(retune|memory|workers|services|cassandra-nodes)", refused.hint or ""), refused.hint
            continue
        # These two are told of every server that comes or goes; they are no servers with clients that would notice.
        told = {"admin-api", *EXAMPLES} if "services" in values else set()
        assert changed <= told, values
        assert sum(made.limits.values()) <= USABLE_PART * (made.spec.resources.memory_mb or 0)
        most = made.number("citus-coordinator", "max_connections")
        assert made.number("citus-coordinator", "citus.max_client_connections") < most
        assert made.topology.tuning.connections >= 5
