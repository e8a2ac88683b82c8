"""Benchmarks for a GPU machine: they need torch, diffusers and transformers, and nothing else of this project's packages."""
