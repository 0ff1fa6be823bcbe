"""Where the bytes of samples come from, whatever they mean: folders, archives, arrays, shards, columns.

A plugin says once which files are its own and what they are called (`kind.Kind`); `listing.find`, `shards.find` and
`columns.find` then turn a path into a `listing.Listing`: a source of samples with the parts, classes and facts that are
recognised. `stored.Stored` is the dataset of one; a plugin adds how a sample is decoded, and nothing else.
"""
