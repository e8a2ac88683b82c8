"""Tiny models, tiny data and makers without a model, for the tests and benchmarks of this project and of those that use it."""
