from pathlib import Path
from typing import Any

import jsonschema
import pytest

from citus_cluster.errors import SpecError
from citus_cluster.model.component_name import ALL, ComponentName
from citus_cluster.model.spec import (
    API_VERSION,
    ClusterSpec,
    Ports,
    grown_workers,
    json_schema,
    with_workers,
    without_worker,
)
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.render.spec_file import render_spec


def spec_of(**data: Any) -> ClusterSpec:
    return parse_spec({"apiVersion": API_VERSION, **data})


def problems_of(origins: dict[str, str] | None = None, **data: Any) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        parse_spec({"apiVersion": API_VERSION, **data}, origins=origins)
    return caught.value.details


def test_everything_has_a_default() -> None:
    spec = spec_of()
    assert spec.worker_numbers == (1, 2)
    assert spec.wanted == ALL
    assert (spec.name, spec.user, spec.database, spec.bind) == ("citus", "postgres", "postgres", "127.0.0.1")
    assert (spec.ports.citus, spec.ports.pg14, spec.ports.admin_api) == (5434, None, 8000)
    assert (spec.ports.redis, spec.ports.cassandra) == (6379, 9042)
    assert (spec.pg14.replication, spec.pg14.log, spec.cassandra.nodes) == ("async", "standard", 1)


def test_without_a_coordinator_there_is_no_admin_api_by_default() -> None:
    assert spec_of(coordinator=False, advertise="db2").wanted == (ComponentName.CITUS,)


def test_services_are_in_stable_order_and_once() -> None:
    assert spec_of(services=["admin-api", "citus", "citus"]).wanted == (ComponentName.CITUS, ComponentName.ADMIN_API)


def test_unknown_keys_are_refused_with_the_nearest_known() -> None:
    assert problems_of(nmae="x") == ("cluster.yaml: nmae: unknown key; did you mean 'name'?",)
    assert problems_of(ports={"citsu": 1}) == ("cluster.yaml: ports.citsu: unknown key; did you mean 'citus'?",)
    (problem,) = problems_of(ports={"zzz": 1})
    known = ", ".join(Ports.model_fields)
    assert problem == f"cluster.yaml: ports.zzz: unknown key; the known keys are {known}"
    (problem,) = problems_of(services=["cass"])
    assert problem.endswith("did you mean 'cassandra'?")


def test_every_problem_is_told_at_once_with_the_flag_that_it_came_by() -> None:
    found = problems_of(
        {"workers": "--workers", "name": "--name"}, workers=-1, name="Foo", user="pg_x", resources={"storage": "tape"}
    )
    assert [line.split(": ")[0] for line in found] == ["--name", "cluster.yaml", "--workers", "cluster.yaml"]
    assert "resources.storage: 'tape' is not one of ssd, nvme, hdd" in found[-1]


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (-1, "workers: -1 is too small; the minimum is 0"),
        (1001, "workers: 1001 is too large; the maximum is 1000"),
        ("3", "workers: '3' is neither a whole number from 0 to 1000 nor a list of worker numbers"),
        (True, "workers: True is neither"),
        (None, "workers: None is neither"),
        ({"a": 1}, "workers: {'a': 1} is neither"),
        ([1, 0], "workers.1: 0 is too small"),
        ([1, "x"], "workers.1: 'x' is not a whole number"),
        ([1, 1], "workers: a worker's number is in the list twice"),
    ],
)
def test_one_problem_for_one_value(workers: object, expected: str) -> None:
    (problem,) = problems_of(workers=workers)
    assert problem.startswith(f"cluster.yaml: {expected}")


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, float("inf"), float("nan")])
def test_a_setting_is_a_scalar(value: object) -> None:
    (problem,) = problems_of(settings={"worker": {"work_mem": value}})
    assert problem.startswith("cluster.yaml: settings.worker.work_mem: ")


@pytest.mark.parametrize("port", [0, -1, 65536, "5434", 5434.5, None, True])
@pytest.mark.parametrize("name", ["citus", "admin_api"])
def test_ports_are_refused(port: object, name: str) -> None:
    (problem,) = problems_of(ports={name: port})
    assert f"ports.{name}" in problem


def test_a_group_that_is_none_is_told() -> None:
    (problem,) = problems_of(ports=None)
    assert problem == "cluster.yaml: ports: None is not a group of keys and values"


def test_keys_that_are_no_texts() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({"apiVersion": API_VERSION, 1: "x"})
    assert caught.value.details == ("cluster.yaml: 1: unknown key; keys are texts",)


def test_the_version_is_asked_for() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({"workers": 3})
    assert caught.value.details == (f"cluster.yaml: apiVersion: is missing: write 'apiVersion: {API_VERSION}'",)


@pytest.mark.parametrize("data", [None, [1], "text", 5])
def test_a_spec_is_a_mapping(data: object) -> None:
    with pytest.raises(SpecError, match=r"cluster\.yaml must hold keys and values"):
        parse_spec(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"services": ["admin-api"]}, "services: admin-api requires Citus"),
        ({"services": []}, "services: no service is listed"),
        ({"coordinator": False}, "coordinator: without a coordinator, the workers must be reachable"),
        ({"coordinator": False, "advertise": "db2", "workers": 0}, "workers: without a coordinator, at least"),
        (
            {"coordinator": False, "advertise": "db2", "services": ["citus", "admin-api"]},
            "services: admin-api requires a coordinator",
        ),
    ],
)
def test_contradictions(data: dict[str, Any], expected: str) -> None:
    (problem,) = problems_of(**data)
    assert problem.startswith(f"cluster.yaml: {expected}")


def test_a_set_without_citus_is_valid() -> None:
    assert spec_of(services=["redis"]).wanted == (ComponentName.REDIS,)


@pytest.mark.parametrize(
    ("current", "count", "expected"),
    [
        (3, 5, 5),
        (3, 2, 2),
        ([1, 3, 4], 5, [1, 3, 4, 5, 6]),
        ([1, 3, 4], 3, [1, 3, 4]),
        ([1, 3, 4], 2, 2),
        ([], 2, [1, 2]),
    ],
)
def test_new_workers_get_numbers_above_all_others(
    current: int | list[int], count: int, expected: int | list[int]
) -> None:
    assert grown_workers(current, count) == expected


@pytest.mark.parametrize(
    ("current", "count", "taken", "expected"),
    [
        (2, 4, {3, 4}, [1, 2, 5, 6]),
        (2, 3, {4}, [1, 2, 5]),
        (2, 2, {3, 4}, 2),
        (2, 1, {3, 4}, 1),
        ([1, 3], 3, {2}, [1, 3, 4]),
        ([1, 3], 2, {9}, [1, 3]),
        ([], 1, {2}, [3]),
    ],
)
def test_a_number_that_is_taken_is_not_used_again(
    current: int | list[int], count: int, taken: set[int], expected: int | list[int]
) -> None:
    assert grown_workers(current, count, taken) == expected


@pytest.mark.parametrize(
    ("current", "number", "expected"),
    [(4, 4, 3), (4, 2, [1, 3, 4]), (4, 5, 4), (1, 1, 0), ([1, 3, 4], 4, [1, 3]), ([1, 3], 2, [1, 3])],
)
def test_a_worker_less(current: int | list[int], number: int, expected: int | list[int]) -> None:
    assert without_worker(current, number) == expected


@pytest.mark.parametrize(
    ("current", "numbers", "expected"),
    [(2, {3, 4}, 4), (2, {4}, [1, 2, 4]), (2, (), 2), ([1, 2], {3}, [1, 2, 3]), ([3, 1], {3}, [3, 1]), (0, {1}, 1)],
)
def test_workers_that_were_edited_out(current: int | list[int], numbers: set[int], expected: int | list[int]) -> None:
    assert with_workers(current, numbers) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "cluster.yaml, line 2: the key 'a' is a duplicate"),
        ("a: {b: 1,\n", "cluster.yaml, line 2"),
        ("a: !!python/object:os.system x\n", "cluster.yaml, line 1"),
        ("a: 1\n---\nb: 2\n", "cluster.yaml, line 2"),
        ("? [1]\n: 2\n", "cluster.yaml is not valid YAML"),
        ("a: \x00\n", "cluster.yaml is not valid YAML"),
    ],
)
def test_yaml_errors_have_their_line(text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_yaml(text, "cluster.yaml")
    assert caught.value.message.startswith(expected)


FULL = {
    "workers": [1, 3],
    "advertise": "db1",
    "resources": {"memory_mb": 8000, "cpus": 2, "detected": ["cpus"], "connections": 50},
    "images": {"citus": "mine:1", "pg_major": 17, "admin_api": "api:1"},
    "pg14": {"replication": "sync", "log": "verbose"},
    "redis": {"maxmemory_policy": "allkeys-lru"},
    "cassandra": {"nodes": 3},
    "settings": {
        "worker": {"work_mem": "8MB"},
        "pg14": {"work_mem": "8MB"},
        "nodes": {"citus-worker3": {"jit": False, "random_page_cost": 1.5}},
    },
}


@pytest.mark.parametrize("data", [{}, FULL])
def test_a_rendered_spec_reads_back_as_it_was(data: dict[str, Any]) -> None:
    spec = spec_of(**data)
    text = render_spec(spec, None)
    again = parse_spec(load_yaml(text, "cluster.yaml"))
    assert again.as_data() == spec.as_data()
    assert render_spec(again, text) == text


def test_comments_order_and_style_of_the_user_stay() -> None:
    text = (
        "# my cluster\nworkers: 3   # three\napiVersion: 'citus-cluster/v1'\n"
        "services: [citus,   admin-api] # both\nports: {citus: 6000}\n"
    )
    spec = parse_spec(load_yaml(text, "cluster.yaml") | {"workers": 4, "services": ["citus"]})
    changed = render_spec(spec, text)
    assert "# my cluster\nworkers: 4   # three\napiVersion: 'citus-cluster/v1'\nservices: [citus]  " in changed
    assert "ports: {citus: 6000, admin_api: 8000}\n" in changed
    assert parse_spec(load_yaml(changed, "cluster.yaml")).as_data() == spec.as_data()
    assert render_spec(spec, changed) == changed


def test_comments_stay_with_their_keys_where_others_go() -> None:
    text = (
        "apiVersion: citus-cluster/v1\nworkers: [1, 2, 3, 4]\nsettings:\n  nodes:\n"
        "    # one\n    citus-worker1: {work_mem: 1MB} # end of one\n\n"
        "    # three\n    citus-worker3:\n      # inside three\n      work_mem: 3MB\n"
        "    # four\n    citus-worker4: {work_mem: 4MB}\n# all\nname: shop\n"
    )
    data = load_yaml(text, "cluster.yaml")
    for number, lost in ((1, ["one", "end of one"]), (3, ["three", "inside three"]), (4, ["four"])):
        kept = {name: value for name, value in data["settings"]["nodes"].items() if name != f"citus-worker{number}"}
        spec = parse_spec(data | {"settings": {"nodes": kept}})
        changed = render_spec(spec, text)
        assert load_yaml(changed, "cluster.yaml") == spec.as_data()
        assert not [word for word in lost if f"# {word}\n" in changed]
        for other in {1, 3, 4} - {number}:
            name = {1: "one", 3: "three", 4: "four"}[other]
            assert f"    # {name}\n    citus-worker{other}:" in changed
        assert "# all\nname: shop\n" in changed


CONFIG = Path(__file__).parents[3] / "config"
EXAMPLES = ["cluster.minimal.yaml", "cluster.full.yaml", "cluster.workers-only.yaml"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_valid_by_schema_and_by_code(name: str) -> None:
    data = load_yaml((CONFIG / name).read_text(encoding="utf-8"), name)
    jsonschema.Draft202012Validator(json_schema()).validate(data)
    parse_spec(data, source=name)


@pytest.mark.parametrize(
    "data",
    [
        {"workers": 3},
        {"apiVersion": API_VERSION, "nmae": "x"},
        {"apiVersion": API_VERSION, "workers": -1},
        {"apiVersion": API_VERSION, "ports": {"citus": 70000}},
        {"apiVersion": API_VERSION, "services": ["nginx"]},
    ],
)
def test_the_schema_refuses_what_the_code_refuses(data: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(data)
    with pytest.raises(SpecError):
        parse_spec(data)
