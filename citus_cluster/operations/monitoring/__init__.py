"""Collecting the figures of a cluster for monitoring."""
