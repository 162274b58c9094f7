"""Users on shards that a ring of hashes chooses, without a coordinator."""
