"""The state of the whole cluster, and its differences from its files."""
