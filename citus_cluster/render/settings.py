"""Settings files of a server: its settings and its access rules become the texts that PostgreSQL reads."""

import re
from collections.abc import Mapping, Sequence

from citus_cluster.model.tuning import Group, Setting
from citus_cluster.render.templates import environment

_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?[A-Za-z]*|[A-Za-z][A-Za-z_]*")


def conf_quoted(value: str) -> str:
    """Quote a value for postgresql.conf where it needs quotes.

    Inside quotes a backslash starts an escape and a quote ends the value, so both are doubled
    (guc-file.l, DeescapeQuotedString).
    """
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def render_postgresql_conf(templates: Mapping[str, str], template: str, settings: Sequence[Setting]) -> str:
    """Render ``template`` (``coordinator.conf``, ``pg14.conf``) with the settings, grouped by heading."""
    groups = [(group.value, [_line(s) for s in settings if s.group is group]) for group in Group]
    return environment(templates).get_template(template).render(groups=[group for group in groups if group[1]])


def render_pg_hba(templates: Mapping[str, str]) -> str:
    """Render pg_hba.conf, the same for every Citus node."""
    return environment(templates).get_template("pg_hba.conf").render()


def _line(setting: Setting) -> Mapping[str, str]:
    parts = [setting.formula, *([setting.inputs] if setting.inputs else [])]
    source = "" if setting.source in setting.formula else f" [{setting.source}]"
    return {"name": setting.name, "value": conf_quoted(setting.value), "reason": "; ".join(parts) + source}
