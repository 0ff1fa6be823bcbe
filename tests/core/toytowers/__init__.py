"""A plugin of pictures with texts: two encoders, ragged texts, groups, an asset, a prepare step, and no labels."""
