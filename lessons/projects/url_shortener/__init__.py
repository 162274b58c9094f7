"""Project 1: a URL shortener with analytics."""
