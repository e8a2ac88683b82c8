"""RealRAG's experiments: database, mined negatives, trained retrievers, judged images."""
