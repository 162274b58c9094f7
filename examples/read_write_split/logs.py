"""What the log looks like, and where it goes: the console, and a file where one may be written."""

import json
import logging
import logging.handlers
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from read_write_split.settings import LogSettings

FORMAT = "%(asctime)s [%(levelname)s] %(name)s: %(message)s"
_OURS = ("fastapi_app", "service_kit")
_FILE_BYTES = 20 * 1024 * 1024
request_id: ContextVar[str] = ContextVar("request_id", default="")


def printable(text: str) -> str:
    """Escape what is no character of one line: a name in a request must not forge a line, or steer a terminal."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


class PlainFormatter(logging.Formatter):
    """One line for people."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(record.message)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object for programs."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get() or None,
            **getattr(record, "facts", {}),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({key: value for key, value in line.items() if value is not None})


def configure(settings: LogSettings) -> list[logging.Handler]:
    """Begin to log. Give the handlers to ``stop``."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    refused = None
    if settings.file:
        try:
            handlers.append(
                logging.handlers.RotatingFileHandler(
                    settings.file, maxBytes=_FILE_BYTES, backupCount=2, encoding="utf-8"
                )
            )
        except OSError as error:
            refused = error.strerror
    for handler in handlers:
        handler.setFormatter(JsonFormatter() if settings.format == "json" else PlainFormatter())
    for name in _OURS:
        one = logging.getLogger(name)
        one.setLevel(settings.level)
        for handler in handlers:
            one.addHandler(handler)
    # These repeat, for each attempt, what this service says once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
    if refused:
        logging.getLogger("fastapi_app").info("%s: %s, so the console alone has the log", settings.file, refused)
    return handlers


def stop(handlers: list[logging.Handler]) -> None:
    """End what ``configure`` began."""
    for handler in handlers:
        for name in _OURS:
            logging.getLogger(name).removeHandler(handler)
        handler.close()
