"""Options of the set-up: each is declared once, at the field that it sets, and every page says what is declared."""

from collections.abc import Mapping
from typing import Any

import pytest
import typer
from parser_support import parser_of

from citus_cluster.cli import program
from citus_cluster.cli.options import PREFIX
from citus_cluster.cli.setup_options import SpecOption, read_services, spec_options, takes_spec_options
from citus_cluster.model.component_name import ALL
from citus_cluster.model.spec import fields, flag_of
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.render.reference import render_example
from tools.update_docs import EXAMPLE, generated

OPTIONS = list(spec_options())
# Keys that no option sets: a list of what was detected, the companions' finer settings, settings of the user's own.
FILE_ONLY = {
    "apiVersion",
    "resources.detected",
    "resources.shared",
    "redis.maxmemory_policy",
    "pgbouncer.max_clients",
    "monitoring.retention_days",
    "monitoring.retention_mb",
    "admin_api.cors_origins",
    "admin_api.public_origins",
    "admin_api.jwt",
}


@pytest.fixture(scope="module")
def example() -> Mapping[str, Any]:
    """The values of the complete example, by dotted path."""
    data = load_yaml(EXAMPLE.read_text(encoding="utf-8"), EXAMPLE.name)
    found = {}
    for path, _ in fields():
        group, _, key = path.rpartition(".")
        found[path] = data[group][key] if group else data[key]
    return found


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_a_page_says_what_is_declared(path: Any) -> None:
    assert path.read_text(encoding="utf-8") == generated()[path], "run: make docs"


def test_a_key_that_the_example_lacks_gets_its_default(example: Mapping[str, Any]) -> None:
    """So a new key needs no edit of the example before `make docs`."""
    data = load_yaml(EXAMPLE.read_text(encoding="utf-8"), EXAMPLE.name)
    for path in ("ports.redis", "redis.maxmemory_policy"):
        group, _, key = path.partition(".")
        del data[group][key]
    made = load_yaml(render_example(data), EXAMPLE.name)
    assert (made["ports"]["redis"], made["redis"]["maxmemory_policy"]) == (6379, "noeviction")
    assert made["ports"]["citus"] == example["ports.citus"]


@pytest.mark.parametrize(
    ("text", "services"),
    [
        ("citus, redis", ["citus", "redis"]),
        ("all", [*ALL]),
        ("all,pgbouncer", [*ALL, "pgbouncer"]),
        ("pgbouncer,all,redis", ["pgbouncer", *ALL]),
        ("all,nope", [*ALL, "nope"]),
    ],
)
def test_a_group_stands_for_its_components(text: str, services: list[str]) -> None:
    """What is no component is refused by the specification, with all other problems."""
    assert read_services(text) == services


def test_every_key_has_an_option_or_is_one_of_the_file_alone() -> None:
    without = {path for path, field in fields() if flag_of(field) is None}
    assert {path for path in without if not path.startswith(("settings.", "logging."))} == FILE_ONLY
    assert [path for path, field in fields() if not field.description] == []


@pytest.mark.parametrize("main", [program.main, program.setup_main])
def test_both_programs_take_every_option_with_its_help_default_and_variable(main: Any) -> None:
    parser = parser_of(main)
    parser = getattr(parser, "commands", {"setup": parser})["setup"]
    by_flag = {parameter.opts[0]: parameter for parameter in parser.params}
    for one in OPTIONS:
        flags = one.flag.name.split("/")
        parameter = by_flag[flags[0]]
        assert [*parameter.opts, *parameter.secondary_opts] == flags
        assert parameter.help == one.help
        assert parameter.envvar == PREFIX + flags[0][2:].upper().replace("-", "_")
        assert (parameter.show_default or "") == one.default
        assert parameter.default is None, "one that is not given changes nothing"


def given_by(arguments: list[str], environment: Mapping[str, str]) -> Mapping[str, Any]:
    """Parse as the set-up does; give what was given, by path."""
    seen: dict[str, tuple[str, Any]] = {}

    def command(context: typer.Context, chosen: Mapping[str, tuple[str, Any]]) -> None:
        seen.update(chosen)

    app = typer.Typer(add_completion=False)
    app.command()(takes_spec_options(command))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        typer.main.get_command(app)(args=arguments, standalone_mode=False)
    assert {path: origin for path, (origin, _) in seen.items()} == {one.path: one.flag.name for one in OPTIONS}
    return {path: value for path, (_, value) in seen.items() if value is not None}


@pytest.mark.parametrize("one", OPTIONS, ids=lambda one: one.path)
def test_an_option_sets_its_key(one: SpecOption, example: Mapping[str, Any]) -> None:
    wanted = 3 if one.path == "workers" else example[one.path]
    assert wanted is not None, f"give {one.path}, which has no default, a value in {EXAMPLE.name}"
    text = ",".join(wanted) if isinstance(wanted, list) else str(wanted)
    variable = PREFIX + one.flag.name.split("/")[0][2:].upper().replace("-", "_")
    if one.reading.type is bool:
        assert given_by([one.flag.name.split("/")[0]], {}) == {one.path: wanted}
        assert given_by([one.flag.name.split("/")[1]], {}) != {one.path: wanted}
        assert given_by([], {variable: "true"}) == {one.path: wanted}
    else:
        assert given_by([one.flag.name, text], {}) == {one.path: wanted}
        assert given_by([], {variable: text}) == {one.path: wanted}
