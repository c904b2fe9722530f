"""Somebody else's training code, run as a workload: its command under the contract of a run directory."""
