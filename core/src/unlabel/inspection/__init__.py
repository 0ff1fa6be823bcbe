"""What is in a folder or archive, what is broken, and what limits reading it."""
