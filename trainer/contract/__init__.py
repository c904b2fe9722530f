"""What trainer and core must agree on. No torch, no polars: the core imports this and nothing else of the trainer."""
