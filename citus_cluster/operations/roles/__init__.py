"""Ordinary roles: created, limited and dropped on every node."""
