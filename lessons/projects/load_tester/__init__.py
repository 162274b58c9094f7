"""Project 3: an HTTP load tester with closed and open loop."""
