"""Downstream evaluations on graphs."""
