"""A run directory, read: a folder or a URL, and what a workload wrote into it."""
