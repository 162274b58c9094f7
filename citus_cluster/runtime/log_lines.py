"""Log lines as a terminal may show them: what a server said is in them."""

import logging

from citus_cluster.model.visible import visible_lines


class VisibleFormatter(logging.Formatter):
    """Formats as logging does, tracebacks included, and lets no control character through but line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def show_logs() -> None:
    """Have what libraries log, which goes to stderr, shown as everything else is."""
    if logging.lastResort:
        logging.lastResort.setFormatter(VisibleFormatter())
