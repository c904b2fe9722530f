"""Machines: this one, the ones that can be rented, and the one that a run is to run on."""
