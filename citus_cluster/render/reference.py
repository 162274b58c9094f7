"""The tables of docs/configuration.md that follow from the code: what is written where, and why."""

import re
from collections.abc import Iterable, Mapping

from citus_cluster.model.parameters import fixed_parameters
from citus_cluster.model.services import Service
from citus_cluster.model.spec import fields, written_default
from citus_cluster.model.tuning import NodeTuning, Setting, Tuning, TuningInput, tune

EXAMPLE = TuningInput(total_mb=7840, cpus=2, workers=3)
"""The cluster that the README starts, on Docker Desktop with 8 GB."""

_CITUS = frozenset({Service.CITUS, Service.ADMIN_API})
_TOTALS = (
    (3900, _CITUS),
    (3900, frozenset(Service)),
    (7840, _CITUS),
    (7840, frozenset(Service)),
    (15900, frozenset(Service)),
    (24100, frozenset(Service)),
    (64000, frozenset(Service)),
)


def render_tables() -> Mapping[str, str]:
    """Give each generated table by the name that its markers carry."""
    return {
        "keys": _keys_table(),
        "settings": _settings_table(),
        "fixed": _fixed_table(),
        "totals": _totals_table(),
    }


def with_tables(document: str, tables: Mapping[str, str]) -> str:
    """Replace the text between ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->``.

    Raises ValueError where a table has no such place, or more than one.
    """
    for name, table in tables.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(place.findall(document)) != 1:
            raise ValueError(f"the document must have one {begin} … {end}")
        document = place.sub(lambda _, text=f"{begin}\n{table}{end}": text, document)  # type: ignore[misc]
    return document


def _settings_table() -> str:
    tuned = tune(EXAMPLE)
    coordinator, worker = _by_name(tuned.coordinator), _by_name(tuned.worker)
    rows = [_settings_row(name, coordinator.get(name), worker.get(name)) for name in {**coordinator, **worker}]
    special = (
        ("PostgreSQL 18", TuningInput(total_mb=7840, cpus=2, workers=3, citus_pg_major=18)),
        ("a cluster without workers", TuningInput(total_mb=7840, cpus=2, workers=0)),
    )
    for case, given in special:
        tuned = tune(given)
        nodes = _by_name(tuned.coordinator), _by_name(tuned.worker)
        names = [name for name in {**nodes[0], **nodes[1]} if name not in coordinator and name not in worker]
        rows += [_settings_row(name, nodes[0].get(name), nodes[1].get(name), only=case) for name in names]
    return _table(("Setting", "Coordinator", "Worker", "Formula or reason", "Source", "Change"), rows)


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
    return _table(("Key", "Default", "Meaning"), rows)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _fixed_table() -> str:
    return _table(("Setting", "Why"), [(f"`{name}`", reason) for name, reason in fixed_parameters().items()])


def _totals_table() -> str:
    headings = ("Memory", "Services", "Clients", "Limit of each node", "max_connections", "work_mem", "PostgreSQL 14")
    return _table(headings, [_totals_row(total_mb, services) for total_mb, services in _TOTALS])


def _totals_row(total_mb: int, services: frozenset[Service]) -> tuple[str, ...]:
    tuned = tune(TuningInput(total_mb=total_mb, cpus=2, workers=3, services=services))
    names = "all" if services == frozenset(Service) else ", ".join(s.value for s in Service if s in services)
    if not tuned.fits:
        return (f"{total_mb:,} MB", names, "does not fit", "", "", "", "")
    assert tuned.coordinator and tuned.worker, "every row has Citus"  # noqa: S101
    connections = " / ".join(_by_name(node)["max_connections"].value for node in (tuned.coordinator, tuned.worker))
    work_mem = " / ".join(_by_name(node)["work_mem"].value for node in (tuned.coordinator, tuned.worker))
    return (
        f"{total_mb:,} MB",
        names,
        str(tuned.connections),
        f"{tuned.coordinator.memory_mb:,} MB",
        connections,
        work_mem,
        _pair(tuned),
    )


def _pair(tuned: Tuning) -> str:
    if not tuned.pg14:
        return "-"
    settings = _by_name(tuned.pg14)
    return f"{tuned.pg14.memory_mb:,} MB, {tuned.pair_connections} clients, {settings['work_mem'].value}"


def _by_name(node: NodeTuning | None) -> dict[str, Setting]:
    return {setting.name: setting for setting in node.settings} if node else {}


def _table(headings: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    headings = tuple(headings)
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
