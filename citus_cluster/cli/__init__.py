"""The command line: only parsing. Every module contains the commands of one noun; ``program`` runs them."""
