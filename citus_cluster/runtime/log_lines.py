"""Log lines that are safe for a terminal, because they contain text from servers."""

import logging

from citus_cluster.model.visible import visible_lines


class VisibleFormatter(logging.Formatter):
    """Formats like logging, including tracebacks, but removes all control characters except line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def show_logs() -> None:
    """Format the logs of libraries, which go to stderr, like all other output."""
    if logging.lastResort:
        logging.lastResort.setFormatter(VisibleFormatter())
