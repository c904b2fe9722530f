"""The mirror of a run in a tracker: what it lacks (`position`, pure) and one sync of it (`copy`). `tracking` runs it."""
