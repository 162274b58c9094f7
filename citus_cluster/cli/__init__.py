"""The command line: parsing, and nothing else. Every module holds the commands of one noun; ``program`` runs them."""
