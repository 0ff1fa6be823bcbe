"""Downstream evaluations of tracks."""
