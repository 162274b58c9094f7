"""The settings files as text, and the tables of docs/configuration.md."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tuning_support import tuned

from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.tuning.servers import NodeTuning, Setting, with_user_settings
from citus_cluster.render.reference import render_tables, with_tables
from citus_cluster.render.settings import conf_quoted, grouped
from citus_cluster.render.templates import environment

ROOT = Path(__file__).parents[3]
TEMPLATES = {
    name: (ROOT / "config" / name).read_text(encoding="utf-8")
    for name in ("coordinator.conf", "worker.conf", "settings.conf.j2", "pg_hba.conf")
}
LINE = re.compile(r"(?P<name>[A-Za-z_.]+) = (?P<value>'(?:[^'\\\n]|''|\\.)*'|[A-Za-z0-9_.-]+)")


def parse(text: str) -> dict[str, str]:
    """Read a settings file as guc-file.l does, with '' and backslash escapes."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        assert match, f"not a line of postgresql.conf: {line!r}"
        assert match["name"] not in found
        value = match["value"]
        found[match["name"]] = re.sub(r"''|\\(.)", lambda m: m[1] or "'", value[1:-1]) if value[0] == "'" else value
    return found


def render(template: str, settings: Sequence[Setting] = ()) -> str:
    return environment(TEMPLATES).get_template(template).render(groups=grouped(settings))


def node(major: int = 17) -> NodeTuning:
    coordinator = tuned(7_840, citus_pg_major=major).coordinator
    assert coordinator is not None
    return coordinator


@pytest.mark.parametrize("template", ["coordinator.conf", "worker.conf"])
@pytest.mark.parametrize("major", [17, 18])
def test_a_file_says_exactly_its_settings(template: str, major: int) -> None:
    settings = node(major).settings
    text = render(template, settings)
    assert parse(text) == {setting.name: setting.value for setting in settings}
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert text.isascii()


def test_each_line_has_its_formula_inputs_and_source_above_it() -> None:
    lines = render("coordinator.conf", node().settings).splitlines()
    above = {
        line.split(" = ")[0]: lines[number - 1] for number, line in enumerate(lines) if " = " in line and line[0] != "#"
    }
    assert above["shared_buffers"] == "# max(128MB, RAM/4); RAM=1716MB [pgtune; Citus docs, performance_tuning]"
    for setting in node().settings:
        comment = above[setting.name]
        assert comment.startswith("# ")
        assert setting.formula in comment
        assert setting.inputs in comment
        assert setting.source in comment


def test_headings_come_in_order_and_empty_ones_not_at_all() -> None:
    text = render("worker.conf", node().settings)
    headings = re.findall(r"^# -- (.+?) -+$", text, re.MULTILINE)
    assert headings == [
        "Connections",
        "Memory",
        "Processes and parallel queries",
        "Write-ahead log",
        "Replication and rebalance",
        "Planner",
        "Citus",
        "Locale",
        "Logging",
    ]


def test_settings_of_the_user_win_and_say_so() -> None:
    user = {"work_mem": "32MB", "auto_explain.log_min_duration": "1s", "cluster_name": 'it\'s \\ "mine" #1'}
    text = render("worker.conf", with_user_settings(node().settings, user))
    assert {name: parse(text)[name] for name in user} == user
    assert "# set in cluster.yaml\nwork_mem = 32MB\n" in text
    assert "# -- Further settings of cluster.yaml -" in text


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("128MB", "128MB"),
        ("0.9", "0.9"),
        ("-1", "-1"),
        ("on", "on"),
        ("", "''"),
        ("*", "'*'"),
        ("it's", "'it''s'"),
        ("a\\b", "'a\\\\b'"),
        ("'\\'", "'''\\\\'''"),
        ("# no comment", "'# no comment'"),
        ("1 GB", "'1 GB'"),
        ("1e-07", "'1e-07'"),
        ("größe", "'größe'"),
    ],
)
def test_quoting(value: str, quoted: str) -> None:
    assert conf_quoted(value) == quoted


def test_access_rules_ask_everyone_but_the_socket_for_a_password() -> None:
    rules = [line.split() for line in render("pg_hba.conf").splitlines() if line and line[0] != "#"]
    assert rules == [["local", "all", "all", "trust"], ["host", "all", "all", "all", "scram-sha-256"]]


def test_the_documentation_names_every_setting_that_is_written() -> None:
    table = render_tables()["settings"]
    for given in (
        tuned(7_840),
        tuned(64_000, cpus=64, workers=0, citus_pg_major=18),
        tuned(64_000, cpus=64, workers=2, coordinator=False, services=(ComponentName.CITUS,)),
    ):
        for found in (given.coordinator, given.worker):
            for setting in found.settings if found else ():
                assert f"| `{setting.name}` |" in table


def test_a_table_needs_its_place() -> None:
    document = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n"
    assert with_tables(document, {"x": "new \\1\n"}) == "a\n<!-- generated: x -->\nnew \\1\n<!-- end: x -->\nb\n"
    with pytest.raises(ValueError, match="must have one <!-- generated: y -->"):
        with_tables(document, {"y": ""})
    with pytest.raises(ValueError, match="must have one"):
        with_tables(document * 2, {"x": ""})
