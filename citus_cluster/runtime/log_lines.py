"""Log lines that are safe for a terminal, because they contain text from servers."""

import logging
from collections.abc import Callable, Mapping

from citus_cluster.model.log_records import json_line
from citus_cluster.model.visible import visible_lines


class VisibleFormatter(logging.Formatter):
    """Formats like logging, including tracebacks, but removes all control characters except line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


class JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON, with the members that ``context`` returns at that moment.

    A record has further members in its attribute ``members`` (``extra={"members": {…}}``).
    """

    def __init__(self, context: Callable[[], Mapping[str, object]]) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        exception = self.formatException(record.exc_info) if record.exc_info else None
        members: Mapping[str, object] = getattr(record, "members", {})
        return json_line(
            record.created,
            record.levelname,
            record.name,
            record.getMessage(),
            {**self._context(), **members},
            exception,
        )


def show_logs() -> None:
    """Format the logs of libraries, which go to stderr, like all other output."""
    if logging.lastResort:
        logging.lastResort.setFormatter(VisibleFormatter())
