"""Nodes of the Citus cluster: registering, checking, draining and removing them."""
