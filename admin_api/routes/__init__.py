"""One module for each resource: what a request may say, and which operation answers it."""
