"""Tables for unlabel: a run's metrics and comparisons of runs as CSV files."""

__version__ = "0.1.0"
