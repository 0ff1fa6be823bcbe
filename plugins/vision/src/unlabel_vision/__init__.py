"""Images for unlabel: data sets, encoders and self-supervised pretext tasks."""

__version__ = "0.1.0"
