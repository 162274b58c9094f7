"""Starting and stopping a cluster's containers."""
