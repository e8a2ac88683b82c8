"""Composition: whether images with a reference keep its object and follow the context of the prompt (RealRAG Fig. 5, 6)."""
