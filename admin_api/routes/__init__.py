"""One module for each resource: its requests, and the operations that handle them."""
