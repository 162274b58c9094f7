"""``python -m citus_cluster``: the same as the console script ``citus-cluster``."""

from citus_cluster.cli import main

main()
