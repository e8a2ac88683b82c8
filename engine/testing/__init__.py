"""Tiny models, tiny data and makers for tests, benchmarks and users of the library."""
