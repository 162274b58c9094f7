"""``python -m admin_api``: the server, as the container runs it."""

import gc
import logging.config

import uvicorn
from fastapi import FastAPI

from admin_api.request_context import identifiers
from admin_api.server import OPTIONS
from admin_api.settings import HTTP_HOST, HTTP_PORT
from citus_cluster.runtime.environment import drop_libpq_variables
from citus_cluster.runtime.log_lines import JsonFormatter

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": JsonFormatter, "context": identifiers}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}


def main() -> None:
    """Serve until SIGTERM; running requests then have a few seconds to end."""
    logging.config.dictConfig(LOGGING)
    drop_libpq_variables()
    uvicorn.run(
        create_lasting_app,
        factory=True,
        host=HTTP_HOST,
        port=HTTP_PORT,
        **OPTIONS,
    )


def create_lasting_app() -> FastAPI:
    """Create the app, and let the garbage collector skip it and all modules.

    They live as long as the process. To look at them took 50 ms of each full collection, while every request waited.
    """
    from admin_api import app

    made = app.create_app()
    gc.collect()
    gc.freeze()
    return made


if __name__ == "__main__":
    main()
