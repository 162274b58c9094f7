"""Parts of the documents that follow from the code: tables, and the example that has every key."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml
from pydantic import BaseModel

from citus_cluster.model.component_name import ALL, ComponentName
from citus_cluster.model.spec import API_VERSION, ClusterSpec, fields, written_default
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import tuning_input
from citus_cluster.model.tuning.budget import CITUS_SERVERS, Server
from citus_cluster.model.tuning.parameters import fixed_parameters
from citus_cluster.model.tuning.servers import NodeTuning, Setting, Tuning, TuningInput, tune
from citus_cluster.model.tuning.sharing import shared_anew

_CITUS = (ComponentName.CITUS, ComponentName.ADMIN_API)


def example(
    total_mb: int = 7840, workers: int = 3, components: Sequence[ComponentName] = _CITUS, pg_major: int = 17
) -> TuningInput:
    """Return the cluster that the README starts, on Docker Desktop with 8 GB, or one that differs from it.

    Its memory is shared as a first set-up does it.
    """
    detected = {"detected": ["memory_mb"]}
    spec = parse_spec(
        {"apiVersion": API_VERSION, "workers": workers, "services": list(components), "resources": detected}
    )
    given = tuning_input(spec, memory_mb=total_mb, cpus=2, pg_major=pg_major)
    return replace(given, kept=shared_anew(given))


_TOTALS = (
    (3900, _CITUS),
    (3900, ALL),
    (7840, _CITUS),
    (7840, ALL),
    (15900, ALL),
    (24100, ALL),
    (64000, ALL),
)


def render_tables() -> Mapping[str, str]:
    """Return each generated table by the name that its markers carry."""
    return {
        "keys": _keys_table(),
        "settings": _settings_table(),
        "fixed": _fixed_table(),
        "totals": _totals_table(),
    }


def with_tables(document: str, tables: Mapping[str, str]) -> str:
    """Replace the text between ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->``.

    Raises ValueError if a table has no such place, or more than one.
    """
    for name, table in tables.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(place.findall(document)) != 1:
            raise ValueError(f"the document must have one {begin} … {end}")
        document = place.sub(lambda _, text=f"{begin}\n{table}{end}": text, document)  # type: ignore[misc]
    return document


def _settings_table() -> str:
    tuned = tune(example())
    coordinator, worker = _nodes(tuned)
    rows = [_settings_row(name, coordinator.get(name), worker.get(name)) for name in {**coordinator, **worker}]
    special = (
        ("PostgreSQL 18", example(pg_major=18)),
        ("a cluster without workers", example(workers=0)),
    )
    for case, given in special:
        tuned = tune(given)
        nodes = _nodes(tuned)
        names = [name for name in {**nodes[0], **nodes[1]} if name not in coordinator and name not in worker]
        rows += [_settings_row(name, nodes[0].get(name), nodes[1].get(name), only=case) for name in names]
    return table(("Setting", "Coordinator", "Worker", "Formula or reason", "Source", "Change"), rows)


def _settings_row(name: str, coordinator: Setting | None, worker: Setting | None, only: str = "") -> tuple[str, ...]:
    first = coordinator or worker
    assert first is not None, "a name comes from one of the two"  # noqa: S101
    formulas = dict.fromkeys(setting.formula for setting in (coordinator, worker) if setting)
    formula = "; worker: ".join(formulas) + (f" ({only} only)" if only else "")
    sources = dict.fromkeys(setting.source for setting in (coordinator, worker) if setting)
    values = (f"`{setting.value}`" if setting else "-" for setting in (coordinator, worker))
    return (f"`{name}`", *values, formula, "; ".join(sources), "restart" if first.restart else "reload")


def _keys_table() -> str:
    rows = ((f"`{key}`", _code(written_default(field)), field.description or "") for key, field in fields())
    return table(("Key", "Default", "Meaning"), rows)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _fixed_table() -> str:
    return table(("Setting", "Why"), [(f"`{name}`", reason) for name, reason in fixed_parameters().items()])


def _totals_table() -> str:
    headings = (
        "Memory",
        "Services",
        "Planned workers",
        "Clients",
        "Limit of each node",
        "max_connections",
        "work_mem",
        "PostgreSQL 14",
    )
    return table(headings, [_totals_row(total_mb, services) for total_mb, services in _TOTALS])


def _totals_row(total_mb: int, components: Sequence[ComponentName]) -> tuple[str, ...]:
    given = example(total_mb, components=components)
    tuned = tune(given)
    names = "all" if components == ALL else ", ".join(components)
    if not tuned.fits:
        return (f"{total_mb:,} MB", names, "", "does not fit", "", "", "", "")
    nodes = _nodes(tuned)
    connections, work_mem = (" / ".join(node[name].value for node in nodes) for name in ("max_connections", "work_mem"))
    return (
        f"{total_mb:,} MB",
        names,
        str(given.planned_workers),
        str(tuned.connections),
        f"{tuned.servers[Server.COORDINATOR].memory_mb:,} MB",
        connections,
        work_mem,
        _pair(tuned),
    )


def _pair(tuned: Tuning) -> str:
    server = tuned.servers.get(Server.PLAIN)
    if server is None:
        return "-"
    return f"{server.memory_mb:,} MB, {tuned.clients[Server.PLAIN]} clients, {_by_name(server)['work_mem'].value}"


def _nodes(tuned: Tuning) -> tuple[dict[str, Setting], dict[str, Setting]]:
    coordinator, worker = (_by_name(tuned.servers.get(server)) for server in CITUS_SERVERS)
    return coordinator, worker


def _by_name(node: NodeTuning | None) -> dict[str, Setting]:
    return {setting.name: setting for setting in node.settings} if node else {}


def table(headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """Write a table of Markdown."""
    headings = tuple(headings)
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


_EXAMPLE_HEADER = """\
# Every key of cluster.yaml, with example values. The comments come from the program's own declarations, like those
# in docs/configuration.md and --help.
"""


def render_example(data: Mapping[str, Any]) -> str:
    """Write a complete ``cluster.yaml`` that has these values, each key below its description.

    A missing key gets its default, so that a new key does not require an edit of the example.
    """
    text = _EXAMPLE_HEADER
    defaults = ClusterSpec.model_construct().model_dump(mode="json")
    for name, field in ClusterSpec.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            group = field.annotation
            values = {**defaults[name], **data.get(name, {})}
            keys = (_described(key, values[key], one.description) for key, one in group.model_fields.items())
            text += f"\n{_comment(group.__doc__)}{name}:\n{textwrap.indent(''.join(keys), '  ')}"
        else:
            text += "\n" + _described(name, data.get(name, defaults.get(name)), field.description)
    return text


def _described(key: str, value: Any, description: str | None) -> str:
    flow = None if isinstance(value, list) else False
    text: str = yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=flow, width=116)
    return _comment(description) + text


def _comment(text: str | None) -> str:
    return textwrap.fill(text or "", 114, initial_indent="# ", subsequent_indent="# ") + "\n"
