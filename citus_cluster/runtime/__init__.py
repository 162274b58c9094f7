"""The outside world, one door each: files, secrets, Docker, Compose, SQL, the journal."""
