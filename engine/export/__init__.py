"""Images of a workspace as a data set for others: parquet, tar shards or folders, with marks, a card and an audit."""
