"""Checkpoints: written while training goes on, restored from the newest that is whole, kept in a bucket."""
