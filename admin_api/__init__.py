"""The admin API: the operations of citus_cluster over HTTP, and the loop that keeps workers registered."""
