"""Only printing: ``screen`` has the two streams; each other module prints one noun."""
