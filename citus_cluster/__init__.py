"""Run Citus (distributed PostgreSQL) on Docker Compose.

The core: imported by the two entry scripts, the ``citus-cluster`` command and the admin API.
Imports run one way: errors <- model <- render <- runtime <- operations <- cli.
"""

__version__ = "0.1.0"
