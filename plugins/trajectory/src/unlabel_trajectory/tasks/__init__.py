"""Pretext tasks, one file a method."""
