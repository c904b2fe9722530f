"""What notebooks use beside the verbs: flags and scripts, tables and charts, work in the background."""
