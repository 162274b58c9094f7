"""The JSON lines that a service of ours logs: how one is written, and how our commands show it to people."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from citus_cluster.model.visible import json_text, visible, visible_lines

ACCESS_LOGGER = "admin_api.access"
"""The logger of the lines about single requests, which say nothing about the service itself."""
_DETAILS = ("request_id", "operation_id")


def json_line(
    time_s: float, level: str, logger: str, message: str, more: Mapping[str, object], exception: str | None = None
) -> str:
    """Return one line of JSON: ``time_s`` is in seconds since 1970, ``more`` has further members; None is omitted.

    Control and format characters are escaped, so the record is one line whatever the message contains.
    """
    time = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
    record: dict[str, object] = {"time": time, "level": level, "logger": logger, "message": message}
    record |= {key: value for key, value in more.items() if value is not None}
    if exception:
        record["exception"] = exception
    return json_text(record, compact=True)


def readable(log: str, *, with_requests: bool = True) -> str:
    """Return a log with its JSON lines as plain text; other lines stay as they are.

    Without ``with_requests``, lines about single requests are omitted: a client decides what is in them, and many of
    them would hide the reason of a failure.
    """
    lines = ((line, *_record_in(line)) for line in log.splitlines())
    return "\n".join(
        _readable(line, start, record) if record else line
        for line, start, record in lines
        if with_requests or record is None or record["logger"] != ACCESS_LOGGER
    )


def _readable(line: str, start: int, record: Mapping[str, str]) -> str:
    shown = [f"{name}={record[name]}" for name in _DETAILS if record.get(name)]
    if record["logger"] == ACCESS_LOGGER:
        shown = [f"{record.get('duration_ms')} ms", f"client={record.get('client')}", *shown]
    details = f" ({', '.join(shown)})" if shown else ""
    text = visible(f"{record['time']} {record['level']} {record['logger']}: {record['message']}{details}")
    exception = record.get("exception")
    return f"{line[:start]}{text}\n{visible_lines(str(exception))}" if exception else f"{line[:start]}{text}"


def _record_in(line: str) -> tuple[int, Mapping[str, str] | None]:
    """Return where a JSON line begins, after a prefix such as Compose's, and its members; None if it is another one."""
    start = line.find('{"time":')
    if start < 0:
        return 0, None
    try:
        record = json.loads(line[start:])
    except (ValueError, RecursionError):
        return 0, None
    is_ours = all(isinstance(record.get(name), str) for name in ("time", "level", "logger", "message"))
    return (start, record) if is_ours else (0, None)
