"""Being asked to stop: by signals, notices and deadlines, and the last word that follows."""
