"""Names of files in a generated directory that several layers know. Imports nothing: shell completion reads it too."""

COMPOSE_FILE = "docker-compose.yml"
OVERRIDE_FILES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
"""Compose itself uses the first of these that exists, so this tool does too."""
SPEC_FILE = "cluster.yaml"
MANIFEST_FILE = "generated/manifest.json"
