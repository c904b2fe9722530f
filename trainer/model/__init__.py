"""The model family: its decoder, attention, the head in one pass, and the cache for generating."""
