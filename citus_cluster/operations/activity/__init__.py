"""Statements, sessions, lock waits and statistics of a running cluster."""
