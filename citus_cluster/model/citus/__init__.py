"""Decisions about a Citus cluster: nodes, roles, shard moves and rebalances, made from rows that the nodes return."""
