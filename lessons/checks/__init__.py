"""What the labs and projects must show, a module for each; see lessons/check.py."""
