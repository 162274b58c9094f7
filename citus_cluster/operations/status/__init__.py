"""The state of a cluster, as ``status`` prints it and the API returns it."""
