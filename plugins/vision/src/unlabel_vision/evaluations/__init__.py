"""Downstream evaluations for images."""
