"""Benchmarks: each first shows that what it times is right, then times it (``longlive bench``)."""
