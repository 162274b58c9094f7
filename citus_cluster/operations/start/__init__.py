"""The start and the end of a cluster's containers."""
