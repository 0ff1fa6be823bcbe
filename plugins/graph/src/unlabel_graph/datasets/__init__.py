"""Graph data sets; one file a kind."""
