"""Networks, masks, positions and losses that two or more plugins use; one file a concept."""
