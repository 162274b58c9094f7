"""Project 2: a job queue on Redis with priorities, retries, dead letters and a visibility time-out."""
