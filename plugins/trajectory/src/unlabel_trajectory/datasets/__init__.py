"""Data sets: tracks cut into windows, all of them on the device at once."""
