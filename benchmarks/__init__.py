"""Benchmarks: commands that print a figure and its ratio to a named peer measured in the same run."""
