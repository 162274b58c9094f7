"""The role with which the admin API reads."""

READER_ROLE = "citus_cluster_reader"
"""It may read what monitoring may (``pg_monitor``), and no rows of users; it logs in to every node itself."""
