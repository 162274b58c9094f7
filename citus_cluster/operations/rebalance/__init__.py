"""Planning, starting, stopping and following rebalances."""
