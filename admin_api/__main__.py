"""``python -m admin_api``: the server, as the container runs it."""

import logging.config

import uvicorn

from admin_api.server import OPTIONS
from admin_api.settings import HTTP_HOST, HTTP_PORT
from citus_cluster.runtime.environment import drop_libpq_variables
from citus_cluster.runtime.log_lines import VisibleFormatter

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    # Some lines contain text from servers, and people read the log on terminals.
    "formatters": {"line": {"()": VisibleFormatter, "fmt": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}


def main() -> None:
    """Serve until SIGTERM; running requests then have a few seconds to end."""
    logging.config.dictConfig(LOGGING)
    drop_libpq_variables()
    uvicorn.run(
        "admin_api.app:create_app",
        factory=True,
        host=HTTP_HOST,
        port=HTTP_PORT,
        **OPTIONS,
    )


if __name__ == "__main__":
    main()
