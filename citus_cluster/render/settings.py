"""Settings of a PostgreSQL server in the form of its settings file."""

import re
from collections.abc import Mapping, Sequence

from citus_cluster.model.tuning.servers import Group, Setting

_PLAIN = re.compile(r"-?[0-9]+(\.[0-9]+)?[A-Za-z]*|[A-Za-z][A-Za-z_]*")


def conf_quoted(value: str) -> str:
    """Quote a value for postgresql.conf if it needs quotes.

    Inside quotes a backslash starts an escape and a quote ends the value, so both are doubled
    (guc-file.l, DeescapeQuotedString).
    """
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def grouped(settings: Sequence[Setting]) -> list[tuple[str, list[Mapping[str, str]]]]:
    """Return the settings for a template: by heading, each with its quoted value and its reason."""
    groups = [(group.value, [_line(s) for s in settings if s.group is group]) for group in Group]
    return [group for group in groups if group[1]]


def _line(setting: Setting) -> Mapping[str, str]:
    parts = [setting.formula, *([setting.inputs] if setting.inputs else [])]
    source = "" if setting.source in setting.formula else f" [{setting.source}]"
    return {"name": setting.name, "value": conf_quoted(setting.value), "reason": "; ".join(parts) + source}
