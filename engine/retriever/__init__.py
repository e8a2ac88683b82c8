"""RealRAG: the database of real images, the negatives mined from it, and the retriever trained on them."""
