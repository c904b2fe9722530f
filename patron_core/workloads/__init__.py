"""What can be run: the built-in trainer, and training code of others. Above this seam nothing knows depth.

A workload is a command, a run directory, exit codes and what it writes there; `lifecycle.workload` starts either.
"""
