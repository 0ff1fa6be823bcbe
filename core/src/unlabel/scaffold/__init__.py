"""A complete first plugin, written out for its author to change; see `unlabel.scaffold.plugin`."""
