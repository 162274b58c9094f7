"""Shards: lists, the place of a key, and what an operator changes about them."""
