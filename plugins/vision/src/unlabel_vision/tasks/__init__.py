"""Pretext tasks on images; one file a method."""
