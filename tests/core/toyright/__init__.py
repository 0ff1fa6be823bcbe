"""A plugin that keeps the contract, small enough to be checked in seconds; the wrong ones are made of it."""
