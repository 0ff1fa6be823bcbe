"""Pretext tasks on graphs; one file a method."""
