"""A course in system design on this stack: eight lessons with labs, three projects, and the checks of both."""
