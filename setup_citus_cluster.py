#!/usr/bin/env python3
"""Generate, and with --up start, a Citus cluster: python setup_citus_cluster.py --workers=3"""

import sys

try:
    from citus_cluster.entry import handle_interrupts

    handle_interrupts()
    from citus_cluster.cli.program import setup_main
except ModuleNotFoundError as error:
    if error.name and error.name.startswith("citus_cluster"):
        raise
    sys.exit(
        f"The Python package {error.name} is not installed. Run 'make venv', then .venv/bin/python {sys.argv[0]} …"
    )

if __name__ == "__main__":
    setup_main()
