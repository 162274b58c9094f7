"""What is left over in a cluster, and positions to which all nodes can be restored."""
