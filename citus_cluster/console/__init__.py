"""Printing, and nothing else: ``screen`` has the two streams, the other modules what is shown of one noun."""
