"""Graphs for unlabel: data sets, encoders and self-supervised pretext tasks on nodes."""

__version__ = "0.1.0"
