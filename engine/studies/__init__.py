"""Studies: complete experiments of the papers, each a configuration and a function that returns a report."""
