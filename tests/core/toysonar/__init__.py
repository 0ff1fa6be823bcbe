"""A plugin as a stranger would write it, so that the core can be tried without any modality's."""
