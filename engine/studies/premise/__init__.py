"""A fair test of RealRAG's premise: a world in which the generator and CLIP confuse the same siblings."""
