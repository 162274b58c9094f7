"""Distributed schemas: all tables of a schema are on one node, as one tenant."""
