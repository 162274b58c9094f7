"""The roles of the admin API's tokens. Imports nothing heavy, because shell completion reads it too."""

from enum import StrEnum

NAMED_TOKENS_FILE = "named-tokens.json"
"""The file with the hashes of the named tokens, in the folder that the API's container mounts."""
DEFAULT_LIFETIME = "90d"


class Role(StrEnum):
    """The role of a token: what it allows."""

    ADMIN = "admin"
    READ = "read"
