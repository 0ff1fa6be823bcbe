"""Pretext tasks on images; one file a method, or a package with the parts that it alone needs."""
