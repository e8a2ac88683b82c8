"""Benchmarks: each a command that prints its figure and the ratio against a named peer measured in the same run."""
