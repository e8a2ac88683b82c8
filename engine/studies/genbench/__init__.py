"""GenBench's experiments: sources and shots, prompt strategies, metrics, budgets."""
