"""Serving: retrieval-augmented generation behind an OpenAI-compatible API, with pages. Entry points and configs are in `serve/`."""
