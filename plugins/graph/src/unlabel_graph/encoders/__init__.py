"""Graph encoders; one file a family."""
