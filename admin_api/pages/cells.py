"""Values as HTML: bytes, numbers, times and states, each in one style on every page. Everything is escaped."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from citus_cluster.model.units import size

GOOD = frozenset({"ok", "done", "active", "on", "running", "moved", "finished", "answers"})
BAD = frozenset({"failed", "down", "missing", "error", "blocks", "silent", "expired", "lost"})
CAREFUL = frozenset(
    {
        *("degraded", "interrupted", "cancelled", "cancelling", "inactive", "partly", "warning", "warns"),
        *("to-delete", "unknown", "stuck", "starting", "paused", "off"),
    }
)
DASH = "\N{EN DASH}"
NONE = Markup('<span class="none">{}</span>').format(DASH)
MAX_TEXT = 400
"""Characters of a text in a cell; the rest is in its title."""


def title(name: str) -> str:
    """Return the heading of a field: ``is_active`` becomes ``active``."""
    if name == "bytes":
        return "size"
    for unit in ("_bytes_per_s", "_bytes", "_at", "_s"):
        name = name.removesuffix(unit)
    name = name.removeprefix("is_")
    return name.replace("_", " ")


def is_bytes(name: str) -> bool:
    return name == "bytes" or name.endswith("_bytes") or name.startswith("bytes_")


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def tone(word: str) -> str:
    """Return the class of the colour for a state."""
    if word in GOOD:
        return "good"
    if word in BAD:
        return "bad"
    return "careful" if word in CAREFUL else "plain"


def badge(word: object) -> Markup:
    """Return a state as a coloured word; the word itself says it too."""
    return Markup('<span class="badge {}">{}</span>').format(tone(str(word)), word)


def bytes_(value: float | None) -> Markup:
    """Return a size for people, with the exact number of bytes in its title."""
    if value is None:
        return Markup('<span class="none" title="unknown">?</span>')
    return Markup('<span title="{} bytes">{}</span>').format(f"{int(value):,}", size(value))


def seconds(value: float | None) -> str:
    """Write a duration: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if value is None:
        return DASH
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    for unit, next_unit, length in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if whole >= length:
            rest = whole % length // {"h": 3600, "min": 60, "s": 1}[next_unit]
            return f"{whole // length} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{whole} s"


def when(value: str | datetime | None, now: datetime | None = None) -> Markup:
    """Return a time as its age, with the time itself in UTC in its title."""
    if value is None:
        return NONE
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    moment = moment.astimezone(UTC)
    age_s = ((now or datetime.now(UTC)) - moment).total_seconds()
    words = f"{seconds(max(0, age_s))} ago" if age_s >= 0 else f"in {seconds(-age_s)}"
    if 0 <= age_s < 1:
        words = "now"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(), f"{moment:%Y-%m-%d %H:%M:%S} UTC", words
    )


def _is_time(value: str) -> bool:
    if len(value) < 19 or value[4:5] != "-" or value[10:11] != "T":
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


STATES = frozenset({"state", "condition", "kind_of_event", "severity"})


def cell(name: str, value: Any) -> Markup:
    """Return the HTML of a field's value."""
    if name.endswith("_bytes_per_s") and is_number(value):
        return bytes_(value) + "/s"
    if is_bytes(name) and (value is None or is_number(value)):
        return bytes_(value)
    if value is None or value == "" or value == []:
        return NONE
    if isinstance(value, bool):
        return Markup('<span class="yes">yes</span>') if value else Markup('<span class="no">no</span>')
    if isinstance(value, int):
        return escape(value if _is_identifier(name) else f"{value:,}")
    if isinstance(value, float):
        return escape(seconds(value) if name.endswith(("seconds", "_s")) else f"{value:,.3g}")
    if isinstance(value, Mapping):
        return Markup(", ").join(
            Markup("{}: {}").format(title(str(key)), cell(str(key), one)) for key, one in value.items()
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Markup(", ").join(cell(name, one) for one in value)
    text = str(value)
    if name in STATES:
        return badge(text)
    if _is_time(text):
        return when(text)
    if name in {"query", "statement", "sql", "command", "fix", "remedy"}:
        shown = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
        return Markup('<code title="{}">{}</code>').format(text, shown)
    if len(text) > MAX_TEXT:
        return Markup('<span title="{}">{}…</span>').format(text, text[:MAX_TEXT])
    return escape(text)


def is_command(text: str) -> bool:
    """Return whether a text is a command or a statement to copy, not advice in words."""
    return text.endswith(";") or text.startswith(("citus-cluster ", "docker "))


def _is_identifier(name: str) -> bool:
    return name in {"id", "oid", "port", "global_pid", "process_id", "position", "parent"} or name.endswith("_id")


def is_right(name: str, value: object) -> bool:
    """Return whether the column of a value is aligned to the right."""
    return (is_bytes(name) or is_number(value)) and not _is_identifier(name)


def cell_class(name: str, value: object) -> str:
    if is_right(name, value):
        return "num"
    return "wide" if name in {"query", "reason", "message", "problem", "statement"} else ""
