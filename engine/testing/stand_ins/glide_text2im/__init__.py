"""Stands in for OpenAI's package in tests where that is not installed: the same calls and shapes, a tiny network of our own."""
