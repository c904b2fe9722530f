"""What a process runs on: its device, its fellow processes, its console, and running out of memory."""
