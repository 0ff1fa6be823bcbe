"""Image data sets; one file a kind."""
