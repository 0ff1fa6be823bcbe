"""Tracks for unlabel: pedestrian data, a track encoder and progressive pretext tasks."""

__version__ = "0.1.0"
