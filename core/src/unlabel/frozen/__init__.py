"""Frozen networks that a task learns from: outside of its state, known by name and hash, their features kept."""
