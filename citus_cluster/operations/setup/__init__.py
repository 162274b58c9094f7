"""The set-up: from options and cluster.yaml to the generated directory."""
