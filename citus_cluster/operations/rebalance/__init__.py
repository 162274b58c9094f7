"""Rebalances: planned, started, stopped and followed."""
