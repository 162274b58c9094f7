"""The Docker engine and the Compose command line."""
