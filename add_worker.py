#!/usr/bin/env python3
"""Register one worker with the coordinator: python add_worker.py --host citus-worker4 --port 5432"""

import sys

try:
    from citus_cluster.entry import handle_interrupts

    handle_interrupts()
    from citus_cluster.cli.program import add_worker_main
except ModuleNotFoundError as error:
    if error.name and error.name.startswith("citus_cluster"):
        raise
    sys.exit(
        f"The Python package {error.name} is not installed. Run 'make venv', then .venv/bin/python {sys.argv[0]} …"
    )

if __name__ == "__main__":
    add_worker_main()
