"""Access to the outside world, one module each: files, secrets, Docker, Compose, SQL, the journal."""
