"""Encoders of tracks."""
