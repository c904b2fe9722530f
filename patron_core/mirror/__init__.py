"""A run's mirror in a tracker: what it lacks (`position`, pure), and one sync of it (`copy`). `tracking` runs it."""
